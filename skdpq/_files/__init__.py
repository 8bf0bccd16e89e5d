"""Files: estimators in one file each, of arrays and JSON, that no reader has to trust.

`container` holds arrays by name, `codec` turns values into arrays and JSON and back, and `estimators` says what belongs
to an estimator. `StateMixin.save` and `skdpq.load` are the door. docs/file_format.md describes what is written.
"""
