"""Rows: what one run writes, and the folder that holds them.

:mod:`row` has the columns, :mod:`store` the folder; :mod:`provenance` says on which machine and version a row was made.
May import: ``parameters``. Never loads torch. Every notebook but 02 reads rows through ``start_notebook``.
"""
