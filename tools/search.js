// The search of the site: what holds all the words, the best first; only if nothing does, what is spelt alike
{
  const plain = text => text.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase()
  const count = (text, part) => text.split(part).length - 1
  const Alike = window.Fuse
  window.Fuse = class extends Alike {
    constructor(index, options) {
      super(index, options)
      this.entries = index.map(item => {
        const [title, section, text] = [item.title, item.section, item.text].map(o => plain(o ?? ''))
        const road = item.href.startsWith('reference') ? .4 : item.href.includes('/') ? .7 : 1
        return { item, title, section, text, road }
      })
    }
    score({ title, section, text, road }, phrase, words) {
      if (!words.every(o => title.includes(o) || section.includes(o) || text.includes(o))) return 0
      const named = section === phrase ? 12 : 4 * section.includes(phrase) + 2 * title.includes(phrase)
      const defined = 9 * (title === 'glossary' && text.includes(phrase + ':'))
      const said = 3 * Math.log1p(count(text, phrase)) + words.reduce((n, o) => n + Math.log1p(count(text, o)), 0)
      return (section === phrase ? 1 : road) * (1 + named + defined + said)
    }
    search(query, options) {
      const phrase = plain(query.trim()), words = phrase.split(/\s+/)
      const found = this.entries.map(o => ({ item: o.item, score: this.score(o, phrase, words) })).filter(o => o.score)
      found.sort((a, b) => b.score - a.score)
      return found.length ? found.slice(0, options.limit) : super.search(query, options)
    }
  }
}
