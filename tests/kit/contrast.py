"""The contrast of everything that can be read on a page, as the browser shows it."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

LEAST = 4.5

# Each text's colour against what is painted under it: the nearest opaque background, and of a text
# in a chart also every shape that it overlaps. Text is what is shown, with a card's labels.
_READ = """
() => {
  const parsed = (text) => {
    const n = text.match(/[\\d.]+/g);
    if (!/^rgba?\\(/.test(text)) return [0, 0, 0, 0];
    return [+n[0], +n[1], +n[2], n.length > 3 ? +n[3] : 1];
  };
  const over = (top, under) =>
    [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const luminance = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  };
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(parsed(getComputedStyle(e).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const isShown = (e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const overlap = (a, b) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const shapes = (svg) =>
    [...svg.querySelectorAll('rect, circle, path')].filter(isShown)
      .map((e) => [e.getBoundingClientRect(), parsed(getComputedStyle(e).fill)])
      .filter(([box, fill]) => fill[3] > 0 && box.width * box.height > 0);
  const read = [];
  const note = (text, colour, grounds) => {
    for (const under of grounds) {
      read.push([text.trim().slice(0, 40), ratio(over(colour, under), under)]);
    }
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, element = text.parentElement;
    if (!text.data.trim() || !isShown(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const box = range.getBoundingClientRect();
    if (box.width * box.height === 0) continue;
    const style = getComputedStyle(element), svg = element.closest('svg');
    const under = ground(element);
    if (!svg) {
      note(text.data, parsed(style.color), [under]);
      continue;
    }
    const beneath = shapes(svg).filter(([shape]) => overlap(shape, box));
    const fill = parsed(style.fill);
    fill[3] *= +style.fillOpacity;
    note(text.data, fill, [under, ...beneath.map(([, colour]) => over(colour, under))]);
  }
  for (const cell of document.querySelectorAll('[data-label]')) {
    const label = getComputedStyle(cell, '::before');
    if (label.content !== 'none') note(label.content, parsed(label.color), [ground(cell)]);
  }
  return read;
}
"""


def too_faint(tab: Page) -> list[tuple[str, float]]:
    """(text, contrast) of each text below LEAST. Asserts that there is text."""
    read: list[list[Any]] = tab.evaluate(_READ)
    assert read
    return [(text, round(contrast, 2)) for text, contrast in read if contrast < LEAST]
