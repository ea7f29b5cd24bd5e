"""The figure's column brings along what keeps its width; the page's side is measured in tests/browser."""

from workbench.panel.curves import LiveCurves


def test_a_live_figure_listens_and_has_its_watcher_in_its_own_column():
    curves = LiveCurves()
    assert curves.figure._config["responsive"] is True
    (watcher,) = curves.root.children[1:]
    assert type(watcher).__name__ == "Fit"
    assert "wb-curves" in curves.root._dom_classes
    assert ".wb-curves" in str(watcher._esm)  # the class that the watcher looks for
