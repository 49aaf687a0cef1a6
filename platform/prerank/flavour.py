"""Registered versions of 0.1.0 name this module as their MLflow loader; it stays for them."""

from prerank.registry.pyfunc import _load_pyfunc as _load_pyfunc
