"""The page's style sheet: one column of readable width, contents beside it or above it, light and dark.

The colours are of Okabe and Ito's set (Color Universal Design, 2008), which people with any colour vision tell apart:
blue for what is kept, vermilion for what a limit drops, grey for what went elsewhere.
"""

CSS = """
:root{color-scheme:light dark;--bg:#fbfbf9;--card:#fff;--ink:#1d2226;--soft:#5b646b;--faint:#8a9299;--rule:#e2e4e1;
--track:#eceeeb;--kept:#0072b2;--drop:#d55e00;--else:#a9b1b7;--beyond:rgba(213,94,0,.07);--good:#00714f;--bad:#b3261e;
--accent:#0b5c8c;--mark:#fdf1e7;--shade:rgba(0,0,0,.13);
--c0:#0072b2;--c1:#e69f00;--c2:#009e73;--c3:#cc79a7;--c4:#56b4e9;--c5:#d55e00;--c6:#8c8c8c;--c7:#b8a900}
@media(prefers-color-scheme:dark){:root{--bg:#121517;--card:#1a1e21;--ink:#e6e8e9;--soft:#a7b0b6;--faint:#7d878e;
--rule:#2c3236;--track:#282e32;--kept:#4aa8de;--drop:#f2893b;--else:#5f6a72;--beyond:rgba(242,137,59,.10);--good:#4cc79a;
--bad:#ff8a80;--accent:#7cc4ee;--mark:#33271c;--shade:rgba(0,0,0,.55);
--c0:#4aa8de;--c1:#e69f00;--c2:#2bb88c;--c3:#d996bb;--c4:#9ad2f2;--c5:#f2893b;--c6:#8f979c;--c7:#d8cb3f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:3.5rem}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:break-word}
main{max-width:76rem;margin:0 auto;padding:0 1rem 4rem;min-width:0}
h1{font-size:1.75rem;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 .25rem;letter-spacing:-.005em}
h3{font-size:1rem;margin:0 0 .5rem}
h4{font-size:.8125rem;margin:0 0 .5rem;color:var(--soft);font-weight:600}
p{margin:.25rem 0 .75rem;max-width:68ch}
a{color:var(--accent)}
code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.875em;
overflow-wrap:anywhere}
.soft{color:var(--soft)}.small{font-size:.8125rem}
header.top{padding:2rem 0 0}
header .chip{display:inline-block;vertical-align:.3em;margin-left:.5rem;padding:.05rem .55rem;border:1px solid var(--rule);
border-radius:1rem;font-size:.8125rem;color:var(--soft);font-weight:400;letter-spacing:0;background:var(--card)}
header dl.facts{display:flex;flex-wrap:wrap;gap:.15rem 1.5rem;margin:.5rem 0 0;font-size:.8125rem;color:var(--soft)}
dl.facts div{display:flex;gap:.4rem;min-width:0}dl.facts dt{color:var(--faint);white-space:nowrap}dl.facts dd{margin:0;
min-width:0;overflow-wrap:anywhere}
nav{position:sticky;top:0;z-index:2;background:var(--bg);border-bottom:1px solid var(--rule);padding:0 1rem}
nav ul{display:flex;gap:1.1rem;overflow-x:auto;list-style:none;margin:0;padding:.6rem 0;scrollbar-width:none}
nav ul::-webkit-scrollbar{display:none}
nav a{color:var(--soft);text-decoration:none;white-space:nowrap;font-size:.875rem}
nav a:hover,nav a:focus-visible{color:var(--accent);text-decoration:underline}
section{padding-top:2.25rem}header+section{padding-top:1rem}
section>p:first-of-type{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1rem 0;padding:0;
list-style:none}
.tiles li{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.65rem .85rem;min-width:0}
.tiles b{display:block;font-size:1.4rem;line-height:1.25;font-weight:650;letter-spacing:-.01em}
.tiles span{display:block;color:var(--soft);font-size:.8125rem}
.verdict{border:1px solid var(--rule);border-left:4px solid var(--good);background:var(--card);border-radius:.375rem;
padding:.65rem .9rem;margin:1rem 0}
.verdict.bad{border-left-color:var(--bad)}
.verdict p{margin:.1rem 0;max-width:none}.verdict strong{color:var(--good)}.verdict.bad strong{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));gap:1rem;align-items:start}
.cards.narrow{grid-template-columns:repeat(auto-fill,minmax(min(100%,19.5rem),1fr))}
.card,details.source{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.85rem 1rem;min-width:0;
margin:0}
.stack>*+*{margin-top:.75rem}
.scroll{overflow-x:auto;max-width:100%;background-color:var(--card);background-repeat:no-repeat;
background-attachment:local,local,scroll,scroll;background-size:2.5rem 100%,2.5rem 100%,.6rem 100%,.6rem 100%;
background-position:0 0,100% 0,0 0,100% 0;
background-image:linear-gradient(90deg,var(--card) 35%,transparent),linear-gradient(270deg,var(--card) 35%,transparent),
linear-gradient(90deg,var(--shade),transparent),linear-gradient(270deg,var(--shade),transparent)}
table{border-collapse:collapse;width:100%;font-size:.8125rem;line-height:1.35}
caption{text-align:left;color:var(--soft);padding-bottom:.35rem}
th,td{padding:.28rem .5rem;text-align:right;white-space:nowrap;border-top:1px solid var(--rule);font-weight:400;
vertical-align:middle}
thead th{color:var(--soft);border-top:0;font-size:.75rem;vertical-align:bottom}
tbody th,th:first-child{text-align:left}
th:first-child,td:first-child{padding-left:0}th:last-child,td:last-child{padding-right:0}
tfoot th,tfoot td{font-weight:650;border-top:2px solid var(--rule)}
td.l,th.l{text-align:left}
td.wrap,th.wrap{white-space:normal;overflow-wrap:break-word;min-width:7.5rem}th.wrap{width:44%}th.wrap+td.b{width:24%}
td.b,th.b{width:38%;min-width:5.5rem;text-align:left}
tr.off td,tr.off th{color:var(--faint)}
tr.decides{background:var(--mark)}tr.decides th,tr.decides td{font-weight:650}
.ok{color:var(--good)}.no{color:var(--bad);font-weight:650}
svg{display:block}
svg.bar{width:100%;height:.75rem;border-radius:2px}svg.bar.thin{height:.25rem;margin-top:2px}
svg.histogram{width:100%;height:auto;font:11px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;max-width:32rem}
svg.columns{width:100%;height:2.75rem;min-width:8rem}
svg.whole{width:100%;height:1.75rem;border-radius:.25rem;margin:.25rem 0 .5rem}
.track{fill:var(--track)}.k{fill:var(--kept)}.d{fill:var(--drop)}.e{fill:var(--else)}.x{fill:var(--bad)}
.c0{fill:var(--c0)}.c1{fill:var(--c1)}.c2{fill:var(--c2)}.c3{fill:var(--c3)}.c4{fill:var(--c4)}.c5{fill:var(--c5)}
.c6{fill:var(--c6)}.c7{fill:var(--c7)}
.beyond{fill:var(--beyond)}
line.grid{stroke:var(--rule)}line.axis{stroke:var(--faint)}line.limit{stroke:var(--ink);stroke-width:1.25;stroke-dasharray:4 3}
path.break{stroke:var(--card);stroke-width:3;fill:none}
text{fill:var(--soft)}text.limit{fill:var(--ink);font-weight:600}text.grid-label{fill:var(--faint);font-size:10px}
text.tall{font-size:10px}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;font-size:.8125rem;color:var(--soft);max-width:none;
margin:.25rem 0 .75rem}
.legend span{display:inline-flex;align-items:center;gap:.4rem}
.swatch{width:.75rem;height:.75rem;border-radius:2px;display:inline-block;flex:none}
i.k{background:var(--kept)}i.d{background:var(--drop)}i.e{background:var(--else)}i.x{background:var(--bad)}i.line{height:0;
width:1rem;border-radius:0;border-top:2px dashed var(--ink)}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}
i.c4{background:var(--c4)}i.c5{background:var(--c5)}i.c6{background:var(--c6)}i.c7{background:var(--c7)}
figure figcaption{font-size:.8125rem;margin-bottom:.25rem}
figcaption .mono{font-weight:650;font-size:.875rem}
figure p{font-size:.8125rem;color:var(--soft);margin:.25rem 0 0}
details>summary{cursor:pointer}
details.figures{margin-top:.25rem;font-size:.8125rem}details.figures>summary{color:var(--soft)}
details.source>summary{font-weight:650}details.source>summary .soft{font-weight:400}
details.source[open]>summary{margin-bottom:.75rem}
details.reason{border-top:1px solid var(--rule);padding:.5rem 0}
details.reason>summary{font-size:.875rem}
.pair{display:grid;grid-template-columns:minmax(0,1fr);gap:1rem;margin-top:.6rem}
.doc{border:1px solid var(--rule);border-top:3px solid var(--kept);border-radius:.375rem;padding:.6rem .75rem;min-width:0}
.doc.out{border-top-color:var(--drop)}.doc+.doc{margin-top:.75rem}.pair .doc{margin-top:0}
.doc h5 b{display:block;font-size:.6875rem;text-transform:uppercase;letter-spacing:.06em}
.doc h5 b.yes{color:var(--kept)}.doc h5 b.no{color:var(--drop)}
.doc th,.doc td{padding:.2rem .4rem}.doc tbody th{white-space:normal;overflow-wrap:anywhere}
.doc h5{margin:0;font-size:.8125rem;overflow-wrap:anywhere}
.doc p{font-size:.75rem;color:var(--soft);margin:.1rem 0 .4rem;overflow-wrap:anywhere;max-width:none}
.doc pre{margin:.5rem 0 0;max-height:15rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;
font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;background:var(--bg);padding:.5rem .6rem;
border-radius:.25rem}
footer{border-top:1px solid var(--rule);margin-top:3rem;padding-top:1rem;color:var(--soft);font-size:.8125rem}
@media(max-width:30rem){.scroll tbody th{white-space:normal;overflow-wrap:break-word;max-width:8rem}
td.b,th.b{min-width:4rem}th,td{padding:.28rem .35rem}.card,details.source{padding:.75rem}}
@media(min-width:48rem){.pair{grid-template-columns:minmax(0,1fr) minmax(0,1fr);grid-auto-flow:dense;align-items:start}
.pair .doc{grid-column:1}.pair .doc.out{grid-column:2}.pair.plain .doc{grid-column:auto}}
@media(min-width:72rem){
body{display:grid;grid-template-columns:12.5rem minmax(0,1fr)}
html{scroll-padding-top:1rem}
nav{height:100vh;overflow-y:auto;margin:0;padding:2rem 0 1rem 1.5rem;border-bottom:0;border-right:1px solid var(--rule)}
nav ul{flex-direction:column;gap:.55rem;padding:.25rem 0}
main{margin:0;padding:0 2.5rem 4rem;max-width:82rem}}
@media print{nav{display:none}body{display:block}.doc pre{max-height:none}.card{break-inside:avoid}}
""".strip()
