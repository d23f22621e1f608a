"""One page of everything that was measured, as HTML and as Markdown."""
