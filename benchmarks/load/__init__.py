"""What ``make load`` runs: the server under several times the load it can carry, on 127.0.0.0/8 only.

``answers`` frames HTTP answers, ``traffic`` says what is sent and when, ``generator`` sends it, ``records`` counts
what came of it. ``application`` is work of a known size, ``servers`` starts who answers, ``overload`` judges.
"""
