"""The panel's look: JupyterLab's own colours, so that it follows the light and the dark theme."""

CSS = """
.wb-panel { --wb-ink: var(--jp-ui-font-color1, #222); --wb-soft: var(--jp-ui-font-color2, #666);
  --wb-line: var(--jp-border-color2, #ddd); --wb-back: var(--jp-layout-color2, #f3f3f3);
  color: var(--wb-ink); font-size: 13px; max-width: 1500px }
.wb-panel, .wb-panel * { box-sizing: border-box }
.wb-bar { border-bottom: 1px solid var(--wb-line); padding-bottom: 6px; margin-bottom: 8px }
.wb-buttons { flex-flow: row wrap !important; align-items: center; gap: 4px }
.wb-buttons .jupyter-button { width: auto; min-width: 78px; margin: 0; border-radius: 4px }
.wb-buttons .widget-hprogress { height: 10px; margin: 0 8px }
.wb-state .widget-html-content { font-variant-numeric: tabular-nums }
.wb-bar .widget-html { margin: 2px 0 0 0 }
.wb-state b { font-weight: 600 }
.wb-message .widget-html-content { min-height: 20px; color: var(--wb-soft) }
.wb-message .wb-error { color: var(--jp-error-color1, #c62828); font-weight: 600 }
.wb-takeaway { display: inline-flex; flex-flow: row wrap; gap: 4px }
.wb-inside th[scope="row"] { border-bottom: none; white-space: nowrap }
.wb-inside td { vertical-align: middle }
.wb-halves { display: flex; flex-flow: row wrap; gap: 0 28px; align-items: flex-start; margin-bottom: 8px }
.wb-halves table { flex: 1 1 330px }
.wb-inside svg { display: block; overflow: visible }
.wb-i-up { fill: #0072B2 } .wb-i-down { fill: #E69F00 }
[data-jp-theme-light="false"] .wb-i-up { fill: #56B4E9 }
.wb-body2 { flex-flow: row wrap !important; align-items: flex-start; gap: 16px }
.wb-controls { flex: 0 0 320px; min-width: 0 }
.wb-right-side { flex: 1 1 480px; min-width: 0 }
.wb-panel .wb-right-side > .widget-tab-contents { padding: 8px 0 0 0;
  border: none }
.wb-panel .wb-right-side > .lm-TabBar .lm-TabBar-tab { flex: 0 0 auto; min-width: 0; padding: 0 11px }
.wb-off { opacity: 0.45 }
.wb-scroll { overflow-x: auto }
.wb-rollouts { padding: 0 6px }
.wb-rollouts .widget-html, .wb-rollouts .widget-html-content { width: 100%; min-width: 0 }
.wb-controls .widget-inline-hbox, .wb-draw .widget-inline-hbox { margin: 1px 0; min-width: 0; width: 100% }
.wb-controls .widget-label, .wb-draw .widget-label { text-align: left; color: var(--wb-soft) }
.wb-controls .widget-readout { min-width: 44px; margin: 0 0 0 4px }
.wb-controls .wb-header { width: 100%; margin: 6px 0 0 0; text-align: left; font-weight: 600;
  border-radius: 4px; background: var(--wb-back); color: var(--wb-ink);
  box-shadow: none !important }
.wb-controls .wb-header i { width: 16px; margin-right: 4px; color: var(--wb-soft) }
.wb-controls .wb-section-body { padding: 4px 2px 4px 8px; overflow: hidden }
.wb-controls .widget-html, .wb-controls .widget-htmlmath { margin: 0; width: 100%; height: auto }
.wb-panel .widget-html-content, .wb-panel .widget-htmlmath-content { line-height: 1.45;
  width: 100%; min-width: 0 }
.wb-doc, .wb-source { color: var(--wb-soft); line-height: 1.4 }
.wb-source { font-size: 11px }
.wb-formula { overflow-x: auto; overflow-y: hidden; padding: 4px 0;
  font-size: 13px }
.wb-formula mjx-container { font-size: 115% !important }  /* by itself it would be a fifth larger */
.wb-details summary { cursor: pointer; color: var(--wb-soft) }
.wb-warn { border-left: 3px solid #E69F00; padding-left: 8px; line-height: 1.5 }
.wb-remarks { max-width: 110ch; margin-bottom: 8px } .wb-remarks > div { margin: 3px 0 }
.wb-alarm { flex-flow: row wrap !important; align-items: center; gap: 4px 12px; margin: 4px 0 }
.wb-alarm .widget-html { flex: 1 1 320px; width: auto }
.wb-curves { overflow: hidden }
.wb-curves .js-plotly-plot text { fill: var(--wb-ink) !important }
.wb-wrap { flex-flow: row wrap !important; gap: 2px 10px; align-items: center }
.wb-table { border-collapse: collapse; font-size: 12px; line-height: 1.45;
  font-variant-numeric: tabular-nums }
.wb-table th { text-align: left; font-weight: 600; border-bottom: 1px solid var(--wb-line) }
.wb-table td, .wb-table th { padding: 3px 8px 3px 0; vertical-align: top; white-space: nowrap }
.wb-table td.wb-long, .wb-table td.wb-answer, .wb-table td.wb-note { white-space: normal;
  overflow-wrap: anywhere }
.wb-table td.wb-long { min-width: 150px; width: 60% }
.wb-table td.wb-answer { min-width: 104px }
.wb-table td.wb-note { min-width: 140px }
.wb-part { display: inline-block }
.wb-check { color: var(--wb-soft); font-size: 11px; line-height: 1.35; overflow-wrap: anywhere }
.wb-sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr));
  gap: 4px 16px }
.wb-side { min-width: 0 }
.wb-side .wb-table { width: 100% }
.wb-side .wb-table td.wb-long { min-width: 120px }
.wb-side .wb-table td.wb-answer { min-width: 100px }
.wb-row1 td { background: color-mix(in srgb, var(--wb-back) 55%, transparent) }
.wb-text { font-family: var(--jp-code-font-family, monospace); font-size: 12px;
  white-space: pre-wrap; unicode-bidi: isolate; overflow-wrap: anywhere }
.wb-prompt { background: var(--wb-back); border-radius: 4px; padding: 6px 10px; margin: 4px 0 }
.wb-keys { display: flex; flex-flow: row wrap; gap: 1px 12px; align-items: center;
  color: var(--wb-soft); font-size: 12px; line-height: 1.5; margin: 2px 0 }
.wb-key { white-space: nowrap }
.wb-key svg { vertical-align: -1px }
.wb-strip { display: block; width: 100%; max-width: 420px; margin-top: 4px }
.wb-s-thinking { fill: #2b8fd0 } .wb-s-answer { fill: #E69F00 }
.wb-s-plan { fill-opacity: 0.38 }
.wb-s-frame { fill: none; stroke: var(--jp-border-color1, #bbb); stroke-width: 1 }
.wb-s-open { fill: none; stroke: var(--wb-soft); stroke-width: 1; stroke-dasharray: 3 2 }
.wb-s-words { fill: var(--wb-ink) }
.wb-s-now { stroke: var(--wb-ink); stroke-width: 1.2 } .wb-s-head { fill: var(--wb-ink) }
.wb-s-change { stroke: var(--wb-soft); stroke-width: 1; stroke-dasharray: 2 2 }
.wb-s-diamond { fill: #CC79A7 }
.wb-t-thinking { background: color-mix(in srgb, #2b8fd0 30%, transparent);
  border-bottom: 2px solid #2b8fd0 }
.wb-t-answer { background: color-mix(in srgb, #E69F00 32%, transparent);
  border-bottom: 2px dashed #E69F00 }
.wb-t-off { color: var(--wb-soft) }
.wb-t1, .wb-k1 { --wb-deep: 9% } .wb-t2, .wb-k2 { --wb-deep: 18% } .wb-t3, .wb-k3 { --wb-deep: 27% }
.wb-t4, .wb-k4 { --wb-deep: 36% } .wb-t5, .wb-k5 { --wb-deep: 45% } .wb-t6, .wb-k6 { --wb-deep: 54% }
.wb-t7, .wb-k7 { --wb-deep: 63% }
.wb-t1, .wb-t2, .wb-t3, .wb-t4, .wb-t5, .wb-t6, .wb-t7 {
  background: color-mix(in srgb, #2b8fd0 var(--wb-deep), transparent) }
.wb-up { background: color-mix(in srgb, #2b8fd0 var(--wb-deep), transparent);
  border-bottom: 2px solid #2b8fd0 }
.wb-down { background: color-mix(in srgb, #E69F00 var(--wb-deep), transparent);
  border-bottom: 2px dashed #E69F00 }
.wb-shades { display: inline-flex; vertical-align: -2px; border: 1px solid var(--wb-line) }
.wb-shade { display: inline-block; width: 16px; height: 11px }
.wb-list { margin: 6px 0; padding-left: 18px; line-height: 1.5 }
.wb-right { color: #007a59 } .wb-wrong { color: #b34d00 }
[data-jp-theme-light="false"] .wb-right { color: #2fc79a }
[data-jp-theme-light="false"] .wb-wrong { color: #f08a3c }
.wb-title { font-weight: 600; border-bottom: 1px solid var(--wb-line); margin: 8px 0 4px 0 }
.wb-draw { flex: 1 1 380px; min-width: 0; max-width: 620px }
.wb-preview { flex: 0 1 auto }
.wb-word { min-width: 0 !important; padding: 0 8px !important; margin: 0 0 0 4px !important;
  height: 24px !important; line-height: 22px !important; border-radius: 4px }
.wb-error { color: var(--jp-error-color1, #c62828) }
.wb-small-plots { display: flex; flex-flow: row wrap; gap: 4px 6px; padding: 4px 0 2px 0 }
.wb-p-title { font-size: 11px; font-weight: 600; fill: var(--jp-ui-font-color1, #222) }
.wb-p-tick { font-size: 9.5px; fill: var(--jp-ui-font-color2, #666) }
.wb-p-axis { stroke: var(--jp-border-color1, #bbb); stroke-width: 1 }
.wb-p-line { fill: none; stroke-width: 1.6 }
.wb-p-line.wb-good { stroke: #009E73 } .wb-p-dot.wb-good { fill: #009E73 }
.wb-p-line.wb-bad { stroke: #D55E00; stroke-dasharray: 4 2 } .wb-p-dot.wb-bad { fill: #D55E00 }
.wb-p-line.wb-one { stroke: #2b8fd0 } .wb-p-dot.wb-one { fill: #2b8fd0 }
.wb-handles { width: 100%; touch-action: none }
.wb-handles svg { display: block; overflow: visible; touch-action: none; cursor: default }
.wb-h-curve { fill: none; stroke: #2b8fd0; stroke-width: 2.2 }
.wb-h-polygon { fill: none; stroke: var(--jp-ui-font-color3, #999); stroke-width: 1;
  stroke-dasharray: 3 3 }
.wb-h-dot { fill: #E69F00; stroke: var(--jp-layout-color1, #fff); stroke-width: 1.5; cursor: grab }
.wb-h-dot:focus { outline: none; stroke: var(--jp-ui-font-color1, #222); stroke-width: 2 }
.wb-h-held .wb-h-dot, .wb-h-held svg { cursor: grabbing }
.wb-h-grid { stroke: var(--jp-border-color2, #ddd); stroke-width: 1 }
.wb-h-zero { stroke: var(--jp-border-color1, #bbb); stroke-width: 1 }
.wb-h-tick { font-size: 10px; fill: var(--jp-ui-font-color2, #666) }
.wb-h-axis, .wb-h-note { font-size: 11px; font-weight: 600; fill: var(--jp-ui-font-color1, #222) }
.wb-h-note { paint-order: stroke; stroke: var(--jp-layout-color0, #fff); stroke-width: 3px;
  pointer-events: none }
.wb-h-bar { display: flex; align-items: center; gap: 8px; margin: 0 0 4px 30px;
  color: var(--jp-ui-font-color2, #666); font-size: 12px }
.wb-h-bar button { width: 24px; height: 22px; padding: 0; font-size: 14px; line-height: 1;
  border: 1px solid var(--jp-border-color1, #bbb); border-radius: 4px; cursor: pointer;
  background: var(--jp-layout-color2, #f3f3f3); color: var(--jp-ui-font-color1, #222) }
.wb-h-bar button:disabled { opacity: 0.4; cursor: default }
.wb-h-off { opacity: 0.5 } .wb-h-off .wb-h-dot { cursor: not-allowed }
.wb-g-map { display: block; width: 100%; min-width: 460px; max-width: 800px }
.wb-g-map text { font-size: 10.5px }
.wb-g-map path, .wb-g-map rect { shape-rendering: crispEdges }
.wb-g-mixed { fill: #0072B2 } .wb-g-dead { fill: var(--wb-soft) }
[data-jp-theme-light="false"] .wb-g-mixed { fill: #56B4E9 }
.wb-g-frame { fill: none; stroke: var(--wb-line); stroke-width: 1 }
.wb-g-over { fill: transparent } .wb-g-over:hover { fill: color-mix(in srgb, var(--wb-ink) 14%, transparent) }
.wb-g-change { stroke: var(--wb-ink); stroke-width: 1; stroke-dasharray: 2 3 }
.wb-g-side { display: flex; flex-flow: row wrap; gap: 4px 24px; align-items: flex-start }
.wb-g-side > div { flex: 1 1 260px } .wb-g-side > .wb-g-ratios { flex: 1 1 340px }
.wb-panel .wb-g-square td, .wb-panel .wb-g-square th { padding: 4px 16px 4px 0;
  vertical-align: baseline }
.wb-g-movers > table { flex: 1 1 340px }
.wb-g-square b { font-size: 14px }
.wb-panel .wb-g-side th[scope="row"] { border-bottom: none }
.wb-table td.wb-c-name { white-space: normal; overflow-wrap: anywhere; min-width: 132px;
  position: sticky; left: 0; background: var(--jp-layout-color1, #fff) }
.wb-table .wb-row1 td.wb-c-name {
  background: color-mix(in srgb, var(--wb-back) 55%, var(--jp-layout-color1, #fff)) }
.wb-table td.wb-c-field { white-space: normal; overflow-wrap: anywhere; min-width: 44px; max-width: 160px }
.wb-c-runs th { vertical-align: bottom; white-space: normal }
.wb-panel button:focus-visible, .wb-panel input:focus-visible, .wb-panel select:focus-visible,
.wb-panel summary:focus-visible { outline: 2px solid var(--jp-brand-color1, #0072B2);
  outline-offset: 1px }
"""
