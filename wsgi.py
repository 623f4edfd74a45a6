"""The WSGI application that gunicorn serves."""

from app.factory import create_app
from app.settings import load_settings

app = create_app(load_settings())
