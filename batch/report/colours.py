"""Placeholders of colours that the page's style sheet sets, for light, dark and print."""

COLOURS = {
    f"#10000{n}": f"var(--{name})"
    for n, name in enumerate(("ink", "muted", "rule", "accent", "second", "paper"))
}
INK, MUTED, RULE, ACCENT, SECOND, PAPER = COLOURS
