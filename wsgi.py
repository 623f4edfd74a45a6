"""The WSGI application, for servers other than ``python -m app serve``: without its admission and its drain."""

from app.factory import create_app
from app.settings import load_settings

app = create_app(load_settings())
