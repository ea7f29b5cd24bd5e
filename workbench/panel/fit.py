"""Keeps figures as wide as their column: plotly itself listens only to the window's size."""

from __future__ import annotations

import anywidget


class Fit(anywidget.AnyWidget):
    """Invisible; put it beside a figure whose config has ``responsive``.

    A figure drawn before its place on the page had a width would stay 700 pixels wide, and one whose
    column changes (a side bar opens) would stay as it was.
    """

    _esm = """
    function render({ el }) {
      let asked = 0;
      const tell = () => {
        cancelAnimationFrame(asked);
        asked = requestAnimationFrame(() => window.dispatchEvent(new Event("resize")));
      };
      const watch = new ResizeObserver(tell);
      const start = requestAnimationFrame(() => {
        const column = el.closest(".wb-curves");
        if (column) watch.observe(column);
      });
      return () => { cancelAnimationFrame(start); watch.disconnect(); };
    }
    export default { render };
    """
