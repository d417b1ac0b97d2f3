// Answers to exercises on a page: compared with those that `check` knows, which were asked when the page was made
{
  const number = o => { const [a, b] = o.split('/'); return b ? a / b : +a }
  const numbers = row => (row.replace(/,(?=\d{3}\b)/g, '').match(/-?\d*\.?\d+(\/\d+)?/g) ?? []).map(number)
  const read = {
    chunks: text => text.replaceAll('\\n', '\n').split('|'),
    words: text => (text.match(/\w+/g) ?? []).sort(),
    rows: text => text.split(/;|\n/).filter(o => /\d/.test(o)).map(numbers),
    row: text => [numbers(text)],
  }
  const near = (a, b) => typeof a == 'number' ? Math.abs(a - b) <= Math.max(.006, .002 * Math.abs(b)) : a === b
  const same = (a, b) => Array.isArray(a) && Array.isArray(b)
    ? a.length == b.length && a.every((o, i) => same(o, b[i])) : near(a, b)

  for (const form of document.querySelectorAll('form.exercise')) {
    const {kind, known, otherwise} = JSON.parse(form.querySelector('script').textContent)
    form.addEventListener('submit', event => {
      event.preventDefault()
      const answer = read[kind](form.querySelector('input').value)
      const [, said] = known.find(([o]) => same(answer, o)) ?? [null, otherwise]
      const out = form.querySelector('output')
      out.textContent = said.replace(/[`*]/g, '')
      out.dataset.right = said == 'right'
    })
  }
}
