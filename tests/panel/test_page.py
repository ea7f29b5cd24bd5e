"""The page's side of the copying buttons is measured in tests/browser; here, that both sides agree."""

from workbench.panel.page import Page
from workbench.panel.takeaway import Takeaway


def test_the_page_reads_the_traits_and_sends_what_the_kernel_understands():
    script = str(Page()._esm)
    for name in ("code", "link", "reportable"):
        assert f'model.get("{name}")' in script and name in Page().trait_names(sync=True)
    for kind in ("copied", "shown", "refused", "report"):
        assert f'kind: "{kind}"' in script
        assert kind in Takeaway._heard.__code__.co_consts


def test_a_report_is_framed_without_the_page_s_rights():
    script = str(Page()._esm)
    assert '"sandbox", "allow-scripts"' in script and "allow-same-origin" not in script
