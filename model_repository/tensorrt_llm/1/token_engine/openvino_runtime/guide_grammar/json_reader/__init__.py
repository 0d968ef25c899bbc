"""The reader of JSON schemas.

`document.py` finds the parts of a schema, `cases.py` takes apart what holds of a position at once,
and the writers (`objects.py`, `arrays.py`, `scalars.py`) turn each case into a grammar's nodes.
"""
