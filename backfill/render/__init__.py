"""What people read: Markdown, reports, the page."""
