"""The report of an experiment: what was found, drawn, set and run, written from finished results.

`gather` reads it all once; `to_html` writes the one page to send to a colleague, `to_markdown` the
same in short, `to_terminal` ten lines.
"""

from subnetworks.report.contents import Report, gather
from subnetworks.report.html import to_html
from subnetworks.report.markdown import to_markdown
from subnetworks.report.terminal import times_to_text, to_terminal, to_text

__all__ = ["Report", "gather", "times_to_text", "to_html", "to_markdown", "to_terminal", "to_text"]
