"""The page's style: light and dark by the reader's setting, one column on a phone."""

CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#14181f;--soft:#5a6472;--line:#dfe3e8;--grid:#e8ebef;
--good:#0b7a45;--goodbg:#e3f4ea;--warn:#8a5200;--warnbg:#fdf0d9;--bad:#b3261e;--badbg:#fbe6e4;--mark:#c2410c;
--c0:#8b95a1;--c1:#2a78d6;--c2:#eb6834;--c3:#1baf7a;--c4:#c98500;--c5:#d55181;--c6:#008300;--c7:#4a3aa7;--c8:#e34948}
@media (prefers-color-scheme:dark){:root{--page:#0f1216;--card:#171b21;--ink:#e7eaee;--soft:#9aa5b1;--line:#2b323b;
--grid:#232931;--good:#5fd39a;--goodbg:#12301f;--warn:#f2bd62;--warnbg:#36290f;--bad:#ff9b93;--badbg:#3b1a18;
--mark:#ff9257;--c0:#7b8591;--c1:#3987e5;--c2:#d95926;--c3:#199e70;--c4:#c98500;--c5:#d55181;--c6:#2aa02a;
--c7:#9085e9;--c8:#e66767}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,footer{max-width:1240px;margin:0 auto;padding:0 20px}
header{padding-top:32px}footer{padding-bottom:40px;color:var(--soft);font-size:13px}
h1{font-size:27px;line-height:1.2;margin:0 0 4px;letter-spacing:-.015em}
h2{font-size:21px;margin:0;letter-spacing:-.01em}
h3{font-size:15px;margin:28px 0 8px}p{margin:6px 0}.note,.sub{color:var(--soft);font-size:13px}
a{color:var(--c1)}
code,.name{font:12.5px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
nav ul{display:flex;flex-wrap:wrap;gap:6px 10px;list-style:none;padding:0;margin:14px 0}
nav a{display:inline-block;padding:4px 11px;border:1px solid var(--line);border-radius:99px;background:var(--card);
text-decoration:none;font-size:13.5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:18px 0 8px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:24px;line-height:1.15;font-weight:650;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:12.5px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin:20px 0}
.scroll{overflow-x:auto;margin:6px 0 10px;border:1px solid var(--line);border-radius:8px}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:2px solid var(--c1);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:8px 10px;font-weight:600;font-size:13px;color:var(--soft)}
th,td{padding:6px 10px;border-top:1px solid var(--grid);vertical-align:middle;text-align:left;white-space:nowrap}
thead th{font-weight:600;vertical-align:bottom;line-height:1.25}
.num{text-align:right}.text{text-align:left}
tbody th{font-weight:550;position:sticky;left:0;background:var(--card)}
tbody tr:hover td,tbody tr:hover th{background:color-mix(in srgb,var(--c1) 6%,var(--card))}
.unit{display:block;font-weight:400;font-size:11px;color:var(--soft)}
.pill{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12px;font-weight:600}
.pill.good{color:var(--good);background:var(--goodbg)}.pill.warn{color:var(--warn);background:var(--warnbg)}
.pill.bad{color:var(--bad);background:var(--badbg)}.soft{color:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:14px}
figure{margin:0;border:1px solid var(--line);border-radius:8px;padding:10px 12px}
figcaption{font-size:13px;font-weight:600;color:var(--soft)}svg.plot{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:12px}svg text.label{fill:var(--ink);font-weight:600}
.grid{stroke:var(--grid)}.axis{stroke:var(--soft)}.whisker{stroke-width:1.5;stroke:var(--hue)}
.disc{fill:var(--hue);fill-opacity:.55;stroke:var(--hue);stroke-width:1.6}
.disc.noisy{fill-opacity:.16;stroke-dasharray:4 3}
.s0{--hue:var(--c0)}.s1{--hue:var(--c1)}.s2{--hue:var(--c2)}.s3{--hue:var(--c3)}.s4{--hue:var(--c4)}
.s5{--hue:var(--c5)}.s6{--hue:var(--c6)}.s7{--hue:var(--c7)}.s8{--hue:var(--c8)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:center;font-size:13px}
.key{display:inline-flex;align-items:center;gap:6px}.swatch{width:11px;height:11px;border-radius:50%;background:var(--hue)}
.bar{fill:var(--c0);opacity:.6}.bar.known{fill:var(--c1);opacity:.85}.mark{fill:var(--mark)}
details{border-top:1px solid var(--grid);padding:8px 0}details+p,p+details{margin-top:0}
summary{cursor:pointer;padding:3px 0}summary strong{margin-right:4px}
ul{margin:2px 0;padding-left:18px}nav ul{padding:0}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr));gap:8px 24px;margin:8px 0}
dl div{min-width:0}dt{font-size:12px;color:var(--soft)}dd{margin:0;overflow-wrap:anywhere;font-size:13.5px}
@media (max-width:600px){main,header,footer{padding:0 12px}header{padding-top:20px}section{padding:14px 12px}
th,td{padding:5px 9px}tbody th{min-width:8.6em;white-space:normal;overflow-wrap:break-word}
svg.plot text{font-size:16px}}
@media print{body{background:#fff}section{break-inside:auto;border:0}.scroll{overflow:visible}}
"""
