"""The report as a Jinja2 template: `page` is a `Page`, `tables` its summary tables."""

from __future__ import annotations

TEMPLATE = """\
{% macro table(rows) %}
<div class="wide">
<table>
<thead><tr>{% for cell in rows[0] %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows[1:] %}
<tr><th scope="row">{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{%- endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ page.title }}</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 54rem; background: #fff; color: #1b1b1b;
  overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid #d0d0d0; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.lead { font-size: 1.1rem; margin: 0 0 1.25rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0 0 1.5rem; font-size: .9rem; }
dt { color: #595959; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0 0 1.75rem; }
img { display: block; width: 100%; height: auto; max-width: 46rem; margin: 0 auto; }
figcaption, .caption, .notes { font-size: .92rem; color: #333; }
figcaption { margin: .5rem auto 0; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e2e2e2; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid #8a8a8a; }
tbody th { border-bottom: 1px solid #e2e2e2; vertical-align: top; white-space: nowrap; }
th:first-child, td.word, th.word { text-align: left; }
td { white-space: nowrap; }
td.word { white-space: normal; overflow-wrap: break-word; }
td.text { min-width: 14rem; overflow-wrap: anywhere; }
.wrong { color: #a33b00; font-weight: 600; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; }
  th, td { padding: .3rem .35rem; }
  tbody th { white-space: normal; min-width: 6rem; overflow-wrap: anywhere; }
  .examples, .examples tbody { display: block; }
  .examples thead { display: none; }
  .examples tr { display: block; padding: .5rem 0; border-bottom: 1px solid #e2e2e2; }
  .examples th, .examples td { display: inline-block; padding: 0 .9rem 0 0; border: 0; }
  .examples td.text { display: block; min-width: 0; }
  .examples [data-name]::before { content: attr(data-name) " "; color: #595959; font-weight: 400; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .wide { overflow: visible; }
  img { max-width: 16cm; }
}
</style>
</head>
<body>
<header>
<h1>{{ page.title }}</h1>
<p class="lead"><strong>{{ page.verdict }}</strong></p>
<p class="lead">{{ page.summary }}</p>
<dl>
{% for name, value in page.facts.items() %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
</header>
<main>
<section>
<h2>Summary</h2>
{% for title, rows in tables %}
{% if title %}
<h3>{{ title }}</h3>
{% endif %}
{{ table(rows) }}
{% endfor %}
</section>
<section>
{% for picture in page.pictures %}
{% if picture.title %}
{% if not loop.first %}
</section>
<section>
{% endif %}
<h2>{{ picture.title }}</h2>
{% endif %}
<figure>
<img src="{{ picture.source }}" alt="{{ picture.alternative }}">
<figcaption>{{ picture.caption }}</figcaption>
</figure>
{% endfor %}
</section>
<section>
<h2>How do the classes fare?</h2>
<p class="caption">{{ page.classes_caption }}</p>
{{ table(page.classes) }}
</section>
<section>
<h2>The easiest and the hardest texts</h2>
<p class="caption">{{ page.examples_caption }}</p>
{% for title, examples in (("Easiest", page.easiest), ("Hardest", page.hardest)) %}
<h3>{{ title }}</h3>
<div class="wide">
<table class="examples">
<thead><tr><th scope="col">row</th><th scope="col">exit layer</th><th scope="col">uncertainty</th>
<th scope="col" class="word">label</th><th scope="col" class="word">prediction</th>
{% if examples and examples[0].texts is not none %}
<th scope="col" class="word">text</th>
{% endif %}
</tr></thead>
<tbody>
{% for example in examples %}
<tr><th scope="row" data-name="row">{{ example.number }}</th><td data-name="exit layer">{{ example.exit_layer }}</td>
<td data-name="uncertainty">
{{- "not known" if example.uncertainty is none else "%.3f" | format(example.uncertainty) }}</td>
<td class="word" data-name="label">{{ example.label }}</td>
<td class="word{{ "" if example.label == example.prediction else " wrong" }}" data-name="prediction">
{{- example.prediction }}
{%- if example.label != example.prediction %} (wrong){% endif %}</td>
{% if example.texts is not none %}
<td class="word text">
{% for text in example.texts %}
<div dir="auto">{{ text }}</div>
{% endfor %}
</td>
{% endif %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endfor %}
</section>
<section class="notes">
<h2>How this was measured</h2>
{% for note in page.notes %}
<p>{{ note }}</p>
{% endfor %}
</section>
</main>
</body>
</html>
"""
