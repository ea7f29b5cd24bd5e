"""The kernel's side of the handles; `tests/browser` drags them."""

from workbench.panel.handles import MOST, Handles


def test_its_state_is_what_the_page_reads():
    handles = Handles(value=[1.0, 2.0], live=[1.0, 2.0], label="beta")
    state = handles.get_state()
    for name in ("value", "live", "label", "disabled", "most", "height"):
        assert name in state
        assert f'model.get("{name}")' in state["_esm"] or name == "live"
    assert state["most"] == MOST


def test_the_page_s_side_is_self_contained():
    text = Handles._esm if isinstance(Handles._esm, str) else str(Handles._esm)
    assert "export default" in text and "import " not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
