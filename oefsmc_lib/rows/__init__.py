"""Rows: what one run writes, and the folder that holds them.

:mod:`store` has the row and the store, :mod:`provenance` says on which machine and version a row was made.
May import: ``parameters``. Never loads torch. Notebooks 01 and 03 to 06 read rows through ``start_notebook``.
"""
