"""How our pages are filled in: nothing from strangers trusted, numbers written alike."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(folder: Path, name: str) -> Template:
    """The template `folder`/`name`; it can include `style.css`, which all pages share."""
    # Autoescape: titles, names and ids come from strangers.
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    environment.filters["share"] = lambda value: f"{value:.1%}"
    environment.filters["signed"] = signed
    return environment.get_template(name)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 16 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def signed(value: float, decimals: int) -> str:
    """`+0.048` or, with a true minus sign, `−0.048`; what rounds to nothing has no sign."""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]
