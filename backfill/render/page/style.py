"""How a page looks: light and dark as the reader has it, narrow on a phone, plain on paper."""

STYLE = """
:root {
  --ink: #1c2024; --soft: #5a636c; --rule: #dfe3e7; --ground: #ffffff; --raised: #f5f7f9;
  --series-1: #2f6fde; --series-2: #d9822b; --series-3: #2c9a5b; --series-4: #b3479b;
  --series-5: #8a6d1f; --series-6: #4f8fa8; --series-7: #a3464a;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ec; --soft: #a3adb6; --rule: #343b42; --ground: #15181b; --raised: #1f2428;
    --series-1: #6ea0ff; --series-2: #f0a45c; --series-3: #5ec98d; --series-4: #da82c8;
    --series-5: #d0b45c; --series-6: #8ac4da; --series-7: #e08488;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; }
h2 {
  font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--rule);
}
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
header ul { list-style: none; padding: 0; columns: 18rem; color: var(--soft); }
header strong { color: var(--ink); font-weight: 600; }
.figures {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0;
}
.figures div {
  display: flex; flex-direction: column-reverse; justify-content: flex-end;
  background: var(--raised); border-radius: .5rem; padding: .75rem 1rem;
}
.figures dd { margin: 0; font-size: 1.4rem; font-weight: 600; }
.figures dt { color: var(--soft); }
.wide { overflow-x: auto; }
figure { margin: 1rem 0; }
figure svg { display: block; min-width: 38rem; width: 100%; height: auto; }
figcaption { color: var(--soft); margin-bottom: .5rem; }
table { border-collapse: collapse; font-size: .9rem; }
th, td {
  text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal;
}
th { color: var(--soft); font-weight: 600; }
code, pre { font: .85em/1.5 ui-monospace, monospace; }
pre {
  background: var(--raised); border-radius: .5rem; padding: .75rem 1rem; white-space: pre-wrap;
}
@media print {
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  figure, tr, pre { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  figure svg { min-width: 0; }
  .wide { overflow: visible; }
  th, td, code { overflow-wrap: anywhere; }
}
"""
