"""Pages that stand on their own: elements, style, and plots as inline SVG."""
