"""Preparation of cases: recipes of named steps, applied to every case and put on record, so that all can be undone."""
