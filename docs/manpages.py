"""What Sphinx lacks for these pages: a list of pages that people and Sphinx read, and manual pages.

- The links of index.md are the table of contents, so that they are written once.
- A link that is named after its file ("settings.md", as one reads it beside the files) has the
  title of that page on the site, and the name of that manual page in a manual page.
- Tables become lists in manual pages: those of a terminal are too narrow for them.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

# What a page of docs/ is called as a manual page.
MANUALS = {
    "commands": "smtpproxy(1)",
    "operation": "smtpproxy(8)",
    "settings": "smtpproxy.toml(5)",
    "mappings": "smtpproxy-mapping(5)",
    "mappings-regex": "smtpproxy-mapping(5)",
    "mappings-http": "smtpproxy-mapping(5)",
    "databases": "smtpproxy-mapping(5)",
    "failures": "smtpproxy-failures(7)",
    "logs": "smtpproxy-logs(7)",
}
# Where several pages are one manual page: the heading that each has there, in man-*.md.
PARTS = {
    "mappings": "Description",
    "mappings-regex": "Regular expressions",
    "mappings-http": "Web services",
    "databases": "Databases",
}

# A heading of a list of pages, with what follows up to the next heading.
PART = re.compile(r"^## (?P<caption>.+)\n(?P<text>(?:(?!## ).*\n)+)", re.MULTILINE)
PAGE = re.compile(r"^- \[(?P<title>[^]]+)\]\((?P<name>[\w-]+)\.md\)", re.MULTILINE)


def contents(text: str) -> str:
    """The tables of contents that index.md stands for, as MyST has them."""
    made = []
    for part in PART.finditer(text):
        pages = [f"{page['title']} <{page['name']}>" for page in PAGE.finditer(part["text"])]
        if pages:
            head = f"```{{toctree}}\n:hidden:\n:caption: {part['caption']}\n\n"
            made.append(head + "\n".join(pages) + "\n```\n")
    return "\n".join(made)


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname == "index":
        source[0] += f"\n{contents(source[0])}"


class NameLinks(SphinxPostTransform):
    """[settings.md](settings.md) is named by what stands there, and links nowhere on paper."""

    default_priority = 5  # before references are resolved

    def run(self, **kwargs: Any) -> None:
        for link in list(self.document.findall(addnodes.pending_xref)):
            page = link.get("reftarget", "")
            if link.get("refdomain") == "doc" and link.astext().endswith(f"{page}.md"):
                link.children = [nodes.inline("", self._name(page, link.get("reftargetid")))]
            if self.app.builder.name == "man":
                link.replace_self(link.children)

    def _name(self, page: str, section: str | None) -> str:
        manual = self.app.builder.name == "man"
        if manual and MANUALS.get(page) != self.document.next_node(nodes.title).astext():
            return MANUALS.get(page, f"{page}.md")
        of_sections = self.env.metadata[page].get("myst_slugs", {})
        if section in of_sections:
            return str(of_sections[section][2])
        if manual and page in PARTS:
            return PARTS[page].upper()  # as the headings of a manual page are
        return self.env.titles[page].astext() if page in self.env.titles else page


class ListTables(SphinxPostTransform):
    """A row of a table becomes an entry of a list: its first cell, and the others below it."""

    default_priority = 900
    builders = ("man",)

    def run(self, **kwargs: Any) -> None:
        for title in self.document.findall(nodes.title):
            # The writer leaves straight quotes out of a title.
            title.children = [nodes.Text(re.sub('"(.*?)"', "\u201c\\1\u201d", title.astext()))]
        for table in list(self.document.findall(nodes.table)):
            heads = [cell.astext() for cell in table.next_node(nodes.thead).findall(nodes.entry)]
            entries = nodes.definition_list()
            for row in table.next_node(nodes.tbody).findall(nodes.row):
                entries += _entry(heads, list(row.findall(nodes.entry)))
            # Numbers alone, which on the site have their table's head above them.
            of_statuses = [nodes.paragraph("", "Exit status:")] if heads[0] == "status" else []
            table.replace_self([*of_statuses, entries])


def _entry(heads: list[str], cells: list[nodes.entry]) -> nodes.definition_list_item:
    term = nodes.term("", "", *_inside(cells[0]))
    said = nodes.definition()
    for head, cell in zip(heads[1:], cells[1:], strict=True):
        if not cell.astext():
            continue
        if head == "default":
            term += [nodes.Text(", " if cell.astext() == "needed" else " = "), *_inside(cell)]
        else:
            # Of two columns, the second needs no name; nor does what a setting means.
            named = [] if len(heads) == 2 or head in ("", "meaning") else [nodes.Text(f"{head}: ")]
            said += nodes.paragraph("", "", *named, *_inside(cell))
    return nodes.definition_list_item("", term, said)


def _inside(cell: nodes.entry) -> list[nodes.Node]:
    return [node.deepcopy() for paragraph in cell.children for node in paragraph.children]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _add_contents)
    app.add_lexer("csv", TextLexer)
    app.add_post_transform(NameLinks)
    app.add_post_transform(ListTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
