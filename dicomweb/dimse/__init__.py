"""The DIMSE door: DICOM upper layer, associations, and the services that are offered on them.

`listener` holds connections until they have sent an association request, `reception` decides who is admitted, `places`
says how many, `association` runs an association within its limits, `services` is the table of what is offered, `scp`
puts them together.
"""
