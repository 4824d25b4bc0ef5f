"""What forked processes have done before they start: the templates of the report are compiled."""

from batchlic.writer.report.page import _environment

for name in _environment().list_templates():
    _environment().get_template(name)
