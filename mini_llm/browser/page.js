// What one sees and touches. The model itself works in worker.js; text reaches the page as text, never as HTML.
'use strict'

const $ = id => document.getElementById(id)
const FACTS = JSON.parse($('facts').textContent)
const VIEWS = ['write', 'tokens', 'looks', 'surprise']
const KNOBS = { // least, most, step, at first
  temperature: [0, 2, .05, .8], topK: [0, 100, 1, 0], topP: [0, 1, .01, .95], minP: [0, 1, .01, 0], most: [10, 500, 10, 120],
}
let language = /^es/i.test(navigator.language) ? 'es' : 'en'
let names = [], view = 'write', own = false // names of all ids, once they are known; whether one has typed a text

// ---- Words and small helpers ----

function say(key, ...what) { return WORDS[language][key].replace(/\{(\d)\}/g, (_, i) => what[i]) }
function number(x, digits = 0) { return x.toLocaleString(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }) }
function percent(p) { return p === 0 ? '0 %' : p < .001 ? '< ' + number(.1, 1) + ' %' : number(100 * p, p < .0995 ? 1 : 0) + ' %' }
function colour(bits) { return `rgba(230, 90, 0, ${(.07 * Math.min(bits, 10)).toFixed(2)})` } // that of the notebooks
function shade(weight) { return `rgba(47, 109, 168, ${(.85 * weight ** .6).toFixed(2)})` }
const PALE = 5

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties)
  element.append(...children)
  return element
}

// A token in a line of text, to be touched; a space before a word stands outside, for lines to break there
function addToken(box, text) {
  const word = text.replace(/^ (?=\S)/, '')
  const span = make('span', { className: 'token', tabIndex: -1, textContent: word || '\u200b' })
  span.setAttribute('role', 'button')
  if (!text) span.classList.add('half')
  if (/^\n+$/.test(text)) span.classList.add('break')
  box.append(word === text ? '' : ' ', span)
  return span
}

// Call `act` with the number of the token that is pointed at (touched: for good). Arrow keys walk.
function touchable(box, look, enter = () => {}) {
  const at = event => event.target.closest?.('.token')
  const nth = span => [...box.querySelectorAll('.token')].indexOf(span)
  box.addEventListener('pointerover', e => { if (e.pointerType === 'mouse' && at(e)) look(nth(at(e)), false) })
  box.addEventListener('click', e => { if (at(e)) { at(e).focus(); look(nth(at(e)), true) } })
  box.addEventListener('focusin', e => { if (at(e)) { rove(box, at(e)); look(nth(at(e)), true) } })
  box.addEventListener('keydown', e => {
    const spans = [...box.querySelectorAll('.token')], k = spans.indexOf(at(e))
    const next = { ArrowRight: k + 1, ArrowDown: k + 1, ArrowLeft: k - 1, ArrowUp: k - 1, Home: 0, End: spans.length - 1 }[e.key]
    if (k < 0) return
    if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); enter(k) }
    if (next !== undefined) { e.preventDefault(); spans[next]?.focus() }
  })
}

function rove(box, span) { // one token of a text can be reached with Tab, the others with arrows
  for (const o of box.querySelectorAll('.token[tabindex="0"]')) o.tabIndex = -1
  if (span) span.tabIndex = 0
}

// ---- The worker ----

const worker = new Worker(URL.createObjectURL(new Blob([$('engine').textContent], { type: 'text/javascript' })))
const waiting = new Map()
let jobs = 0
worker.onmessage = ({ data }) => { waiting.get(data.job)?.(data); if (data.done) waiting.delete(data.job) }
function ask(task, message, answer) { waiting.set(++jobs, answer); worker.postMessage({ task, job: jobs, ...message }) }

// ---- Writing: texts, each with the tokens it has so far ----

let texts = [], numbered = 0, current = null, chosen = null // the text that is being written; the token that is shown

function knobs() { return Object.fromEntries(Object.keys(KNOBS).map(k => [k, Number($(k).value)])) }

function begin() {
  for (const o of texts) o.card.remove()
  texts = []
  numbered = 0
  const seed = BigInt($('seed').value.replace(/\D/g, '') || 0)
  grow({ prompt: $('prompt').value, knobs: knobs(), seed, tokens: [], from: null, fork: 0 })
}

function branch(text, k, id) { // the text once more, with another token in its place `k`
  const option = text.tokens[k].options.find(o => o[0] === id)
  const token = { ...text.tokens[k], id, text: plain(id), prob: option[1] }
  grow({ ...text, tokens: [...text.tokens.slice(0, k), token], from: text, fork: k })
}

function plain(id) { return names[id].replaceAll('·', ' ').replaceAll('↵', '\n').replaceAll('→', '\t') }

function grow(text) {
  text.number = ++numbered
  text.body = make('div', { className: 'body' }, make('span', { className: 'given', textContent: text.prompt }))
  text.heading = make('h2')
  text.bits = make('span', { className: 'bits' })
  const remove = make('button', { type: 'button', className: 'remove', textContent: '×', onclick: () => drop(text) })
  remove.hidden = !text.from
  text.remove = remove
  text.body.setAttribute('role', 'group')
  text.card = make('article', {}, make('div', { className: 'head' }, text.heading, text.bits, remove), text.body)
  text.tokens.forEach((token, k) => add(text, token, k))
  touchable(text.body, (k, pinned) => show(text, k, pinned), () => $('options').querySelector('button')?.focus())
  if (text.from) text.from.card.after(text.card)
  else $('texts').append(text.card)
  texts.push(text)
  label(text)
  if (text.from) show(text, text.fork, true)
  current = text
  setStatus('writing')
  const { most, ...settings } = text.knobs
  ask('write', { prompt: text.prompt, most, knobs: settings, seed: text.seed, given: text.tokens.map(o => o.id) }, answer => {
    if (answer.id !== undefined) { text.tokens.push(answer); add(text, answer, text.tokens.length - 1); label(text) }
    if (answer.done) finish(text, answer)
  })
}

function finish(text, { speed, ended, cancelled, error }) {
  if (current !== text) return
  current = null
  const n = number(text.tokens.length)
  setStatus(...error ? ['failed', error] : cancelled ? ['stopped', n] : ended ? ['end'] : ['written', n, number(speed)])
  document.documentElement.dataset.speed = speed ?? ''
  if (view !== 'write' && !own) turnTo(view)
}

function add(text, token, k) {
  const span = addToken(text.body, token.text)
  span.style.backgroundColor = colour(-Math.log2(token.prob))
  span.setAttribute('aria-label', say('token', names[token.id], percent(token.prob)))
  if (text.from && k < text.fork) span.classList.add('shared')
  if (text.from && k === text.fork) span.classList.add('fork')
  if (k === 0) span.tabIndex = 0
}

function label(text) {
  const { from, fork, number: n } = text
  const upTo = from && (from.tokens.slice(Math.max(0, fork - 2), fork).map(o => o.text).join('').trim() || '…')
  const here = from && (text.tokens[fork].text.trim() || names[text.tokens[fork].id])
  text.heading.textContent = from ? say('textFrom', n, from.number, upTo, here) : say('text', n)
  const bits = text.tokens.reduce((sum, o) => sum - Math.log2(o.prob), 0) / Math.max(1, text.tokens.length)
  text.bits.textContent = say('bitsEach', number(bits, 1))
  text.body.setAttribute('aria-label', say('group', n))
  text.remove.setAttribute('aria-label', say('remove', n))
}

function drop(text) {
  if (current === text) worker.postMessage({ task: 'stop' })
  texts = texts.filter(o => o !== text)
  text.card.remove()
  if (chosen?.text === text) { chosen = null; showNothing() }
  texts.at(-1)?.body.querySelector('.token')?.focus()
}

let status = ['loading']
function setStatus(...what) {
  status = what
  $('status').textContent = say(...what)
  $('start').textContent = say(current ? 'stop' : 'start')
}

// ---- What might have stood in the place of a token ----

function showNothing() { $('options').replaceChildren(make('p', { className: 'hint', textContent: say('touch') })) }

function show(text, k, pinned) {
  const token = text.tokens[k]
  if (!token) return
  for (const o of document.querySelectorAll('#texts .on')) o.classList.remove('on')
  const span = text.body.querySelectorAll('.token')[k]
  span.classList.add('on')
  if (pinned) { rove(text.body, span); span.scrollIntoView({ block: 'nearest' }) }
  chosen = { text, k }
  const cell = (className, textContent) => make('span', { className, textContent })
  const surprised = say('bits', number(-Math.log2(token.prob), 1))
  const most = Math.max(...token.options.flatMap(([, before, after]) => [before, after]))
  const bar = (kind, p) => { const o = make('i', { className: kind }); o.style.width = 100 * p / most + '%'; return o }
  const rows = token.options.map(([id, before, after]) => {
    const row = make('button', { type: 'button', onclick: () => branch(text, k, id) },
      cell('name', names[id]), make('span', { className: 'bars' }, bar('before', before), bar('after', after)),
      cell('share', percent(before)), cell('share strong', percent(after)))
    const shares = [names[id], percent(before), percent(after)]
    row.setAttribute('aria-label', id === token.id ? `${shares[0]}, ${shares[1]}, ${say('chosen')}` : say('candidate', ...shares))
    if (id === token.id) { row.classList.add('chosen'); row.setAttribute('aria-disabled', 'true'); row.onclick = null }
    return row
  })
  const list = make('div', { className: 'rows' }, ...rows)
  list.addEventListener('keydown', e => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key], all = [...list.children]
    if (step) { e.preventDefault(); all[all.indexOf(document.activeElement) + step]?.focus() }
    if (e.key === 'Escape') span.focus()
  })
  $('options').replaceChildren(make('h2', { textContent: say('candidates') }),
    make('div', { className: 'columns-names' }, cell('before', say('before')), cell('after', say('after'))),
    list, make('p', { className: 'hint', textContent: surprised + ' · ' + say('left', number(token.left), number(names.length)) }))
}

// ---- The three views of one's own text ----

const yours = { tokens: null, looks: null, surprise: null } // what is known of the text in each view
const part = (name, what) => $('view-' + name).querySelector(what)
let head = [0, 0], token = 0 // in the view of attention

function fill(name, pieces) {
  const box = part(name, '.shown')
  box.replaceChildren()
  const spans = pieces.map(piece => addToken(box, piece))
  rove(box, spans[0])
  part(name, '.note').textContent = ''
  return spans
}

function read() { // bring the view that is open up to date with the text
  if (!names.length) return
  const text = $('text').value
  if (view === 'tokens') ask('cut', { text }, answer => {
    yours.tokens = answer
    fill('tokens', answer.ids.map(id => names[id])).forEach((span, k) => {
      span.classList.add('pale' + k % PALE)
      if (/^[·↵]/.test(span.textContent)) span.before(document.createElement('wbr'))
    })
    sums()
  })
  if (view === 'looks') ask('look', { text }, answer => {
    if (answer.cancelled) return
    yours.looks = answer
    token = answer.ids.length - 1
    fill('looks', answer.pieces)
    drawHeads()
    paint()
  })
  if (view === 'surprise') ask('weigh', { text }, answer => {
    if (answer.ids) { yours.surprise = { ...answer, bits: [], options: [] }; fill('surprise', answer.pieces) }
    if (answer.k !== undefined) {
      yours.surprise.bits.push(answer.bits)
      yours.surprise.options.push(answer.options)
      part('surprise', '.shown').children[answer.k].style.backgroundColor = colour(answer.bits)
    }
    if (answer.done) sums()
  })
}

function sums() { // the lines above the three texts
  const total = list => list.reduce((a, b) => a + b, 0)
  if (yours.tokens) {
    const n = yours.tokens.ids.length, bytes = total(yours.tokens.lengths)
    part('tokens', '.sum').textContent = say('counts', number(n), number(bytes), n ? number(bytes / n, 2) : '0')
  }
  if (yours.surprise) {
    const { bits, lengths } = yours.surprise
    part('surprise', '.sum').textContent = say('perByte', number(total(bits) / Math.max(1, total(lengths)), 2))
  }
}

function noteToken(k) {
  const { ids, bytes } = yours.tokens
  part('tokens', '.note').textContent = say('tokenIs', names[ids[k]], number(ids[k]), bytes[k])
}

function noteSurprise(k) {
  const { bits, options } = yours.surprise
  if (bits[k] === undefined) return
  const expected = options[k].map(([id, p]) => `${names[id]} ${percent(p)}`).join(', ')
  part('surprise', '.note').textContent = k ? say('bits', number(bits[k], 1)) + ' · ' + say('instead', expected) : say('first')
}

function drawHeads() { // for each block and head a button with a strip, which shows where it looks
  const { maps } = yours.looks
  $('heads').replaceChildren(...maps.map((heads, l) => make('div', {}, ...heads.map((_, h) => {
    const button = make('button', { type: 'button', onclick: () => { head = [l, h]; paint() } }, make('canvas', { width: 96, height: 14 }))
    return button
  }))))
}

function paint() { // colour the text by what the chosen head looks at from the chosen token
  const { maps, ids } = yours.looks, spans = [...part('looks', '.shown').children]
  if (!ids.length) return
  const row = maps[head[0]][head[1]][token]
  spans.forEach((span, k) => {
    span.style.backgroundColor = k <= token ? shade(row[k]) : ''
    span.classList.toggle('later', k > token)
    span.classList.toggle('on', k === token)
    span.setAttribute('aria-label', k <= token ? `${names[ids[k]]}, ${percent(row[k])}` : names[ids[k]])
  })
  maps.forEach((heads, l) => heads.forEach((rows, h) => {
    const button = $('heads').children[l].children[h], strip = button.firstChild.getContext('2d'), weights = rows[token]
    const best = weights.indexOf(Math.max(...weights)), wide = 96 / weights.length
    strip.clearRect(0, 0, 96, 14)
    weights.forEach((w, k) => { strip.fillStyle = shade(w); strip.fillRect(k * wide, 0, Math.max(wide, 1), 14) })
    button.setAttribute('aria-label', say('headLooks', l + 1, h + 1, names[ids[best]], percent(weights[best])))
    button.setAttribute('aria-pressed', l === head[0] && h === head[1])
    button.title = button.getAttribute('aria-label')
  }))
  part('looks', '.sum').textContent = say('head', head[0] + 1, head[1] + 1)
  const best = row.indexOf(Math.max(...row))
  part('looks', '.note').textContent = say('looksAt', names[ids[token]], names[ids[best]], percent(row[best]))
}

// ---- All of the page ----

function speak() { // in the language that was chosen
  const { about, book } = FACTS, other = language === 'es' ? 'en' : 'es'
  document.documentElement.lang = language
  $('about').textContent = say(about.text ? 'about' : 'aboutPlain', number(about.parameters), about.text)
  for (const o of document.querySelectorAll('[data-word]')) o.textContent = say(o.dataset.word)
  for (const o of document.querySelectorAll('[data-label]')) o.setAttribute('aria-label', say(o.dataset.label))
  $('language').textContent = other === 'es' ? 'Español' : 'English'
  $('language').lang = other
  for (const name of VIEWS) {
    const link = say('chapterOf', FACTS.chapters[name].name), [before, after] = WORDS[language].chapter.split('{0}')
    const place = book === null ? link : make('a', { href: book + FACTS.chapters[name].page, target: '_top', textContent: link })
    part(name, '.what').replaceChildren(say(name + 'What'), ' ', before, place, after)
  }
  for (const o of document.querySelectorAll('[data-help]')) o.title = say(o.dataset.help)
  setStatus(...status)
  texts.forEach(label)
  if (chosen) show(chosen.text, chosen.k, false)
  else showNothing()
  sums()
  if (yours.looks) paint()
}

function turnTo(name, focus) {
  view = name
  for (const o of VIEWS) {
    $('view-' + o).hidden = o !== name
    $('tab-' + o).setAttribute('aria-selected', o === name)
    $('tab-' + o).tabIndex = o === name ? 0 : -1
  }
  $('yours').hidden = name === 'write'
  if (name !== 'write') part(name, '.what').after($('yours'))
  if (!own) $('text').value = written()
  if (focus) $('tab-' + name).focus()
  read()
}

function written() { const o = chosen?.text ?? texts.at(-1); return o ? o.prompt + o.tokens.map(t => t.text).join('') : $('prompt').value }

function sliders() {
  for (const [key, [min, max, step, value]] of Object.entries(KNOBS)) {
    const input = make('input', { type: 'range', id: key, min, max, step, value }), shown = make('output', { textContent: value })
    input.oninput = () => { shown.textContent = input.value }
    input.dataset.help = key + 'Help'
    const name = make('span')
    name.dataset.word = key
    $('sliders').append(make('label', {}, name, input, shown))
    if (key === 'most') delete input.dataset.help
  }
  const seed = make('input', { type: 'text', id: 'seed', inputMode: 'numeric', value: '1', autocomplete: 'off' }), name = make('span')
  const dice = make('button', { type: 'button', textContent: '⚂' })
  dice.onclick = () => { seed.value = Math.floor(Math.random() * 10000); begin() }
  name.dataset.word = 'seed'
  seed.dataset.help = 'seedHelp'
  dice.dataset.label = dice.dataset.help = 'another'
  $('sliders').append(make('label', {}, name, seed, dice))
}

function listen() {
  $('ask').onsubmit = e => { e.preventDefault(); if (current) worker.postMessage({ task: 'stop' }); else begin() }
  $('prompt').onkeydown = e => { if (e.key === 'Enter' && !e.shiftKey) { e.preventDefault(); begin() } }
  $('language').onclick = () => { language = language === 'es' ? 'en' : 'es'; speak() }
  $('take').onclick = () => { own = false; turnTo(view) }
  let timer
  $('text').oninput = () => { own = true; clearTimeout(timer); timer = setTimeout(read, 250) }
  VIEWS.forEach((name, i) => {
    $('tab-' + name).onclick = () => turnTo(name)
    $('tab-' + name).onkeydown = e => {
      const step = { ArrowRight: 1, ArrowLeft: 3 }[e.key]
      if (step) turnTo(VIEWS[(i + step) % 4], true)
    }
  })
  touchable(part('tokens', '.shown'), noteToken)
  touchable(part('surprise', '.shown'), noteSurprise)
  touchable(part('looks', '.shown'), (k, pinned) => { if (pinned) { token = k; paint() } })
}

document.body.classList.toggle('framed', window !== window.parent)
$('name').textContent = document.title = FACTS.about.name
$('prompt').value = FACTS.prompt
$('knobs').open = matchMedia('(min-width: 52rem)').matches
sliders()
listen()
speak()
turnTo(VIEWS.find(o => location.hash === '#' + o) ?? 'write')
ask('load', { shape: FACTS.shape, tokenizer: FACTS.tokenizer, weights: $('weights').textContent }, answer => {
  if (answer.error) { setStatus('failed', answer.error); return }
  names = answer.names
  document.documentElement.dataset.loaded = performance.now()
  $('start').disabled = false
  begin()
})
