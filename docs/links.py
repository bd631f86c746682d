#!/usr/bin/env python3
"""Checks the links of the book: every page is in the summary, every link to a page, to a heading or
to a file of the tree leads somewhere. Arguments: folder of the pages, folder of the built book."""

import html.parser
import pathlib
import re
import sys
import urllib.parse


class Page(html.parser.HTMLParser):
    """Links and anchors of one built page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if attributes.get("id"):
            self.anchors.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "img" and attributes.get("src"):
            self.links.append(attributes["src"])


def main():
    pages, book = map(pathlib.Path, sys.argv[1:])
    wrong = []
    listed = set(re.findall(r"\(([^)]+\.md)\)", (pages / "SUMMARY.md").read_text()))
    there = {path.name for path in pages.glob("*.md")} - {"SUMMARY.md"}
    wrong += [f"{name} is not in SUMMARY.md" for name in sorted(there - listed)]
    wrong += [f"SUMMARY.md names {name}, which is not there" for name in sorted(listed - there)]
    built = {path: Page(path.read_text()) for path in book.glob("*.html")}
    count = 0
    for path, page in built.items():
        for link in page.links:
            url = urllib.parse.urlparse(link)
            if url.scheme or url.netloc or path.name in ("print.html", "404.html", "toc.html"):
                continue
            count += 1
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                wrong.append(f"{path.name}: {link} leads nowhere")
            elif url.fragment and target in built and url.fragment not in built[target].anchors:
                wrong.append(f"{path.name}: {link} names no heading")
    # Pages that are read as files link to each other and to the tree.
    for name in ("README.md", "ARCHITECTURE.md"):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", pathlib.Path(name).read_text()):
            if not urllib.parse.urlparse(link).scheme:
                count += 1
                if not pathlib.Path(link).exists():
                    wrong.append(f"{name}: {link} leads nowhere")
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"book: {len(built)} pages, {count} links, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
