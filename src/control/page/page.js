
'use strict';
(() => {
  // One request a second; the sparklines have the last five minutes.
  const PERIOD = 1000, KEPT = 300, TOKEN = 'http_token';
  const STATES = {
    active: ['', 'active'], identifying: ['I', 'identifying'], resuming: ['R', 'resuming'],
    disconnected: ['D', 'disconnected'], fatal: ['✕', 'closed by Discord for good'],
  };
  // Upper bounds of the shades, in milliseconds of a heartbeat's round trip.
  const SHADES = [50, 100, 200, 400];
  const TILES = [
    ['events', 'events/s from Discord', number], ['sent', 'events/s to clients', number], ['clients', 'clients', number],
    ['latency', 'heartbeat, median', (v) => v === null ? '–' : number(v) + ' ms'],
    ['received', 'from Discord', perSecond], ['written', 'to clients', perSecond],
    ['memory', 'memory', bytes],
  ];
  const $ = (id) => document.getElementById(id);
  const history = Object.fromEntries(TILES.map(([key]) => [key, []]));
  const cells = new Map();
  let before = null, selected = null, focused = null, lastAnswer = null, feedSeen = -1, updates = 0;

  // ---- small things ----

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === 'class') made.className = value; else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }
  function set(target, text) { if (target.textContent !== text) target.textContent = text; }
  function number(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return '–';
    return value >= 100 ? Math.round(value).toLocaleString('en') : String(Math.round(value * 10) / 10);
  }
  function bytes(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return '–';
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    while (value >= 1024 && unit + 1 < units.length) { value /= 1024; unit += 1; }
    return (unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)) + ' ' + units[unit];
  }
  function perSecond(value) { return value === null ? '–' : bytes(value) + '/s'; }
  function duration(seconds) {
    if (seconds === null || seconds === undefined) return '–';
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return s + ' s';
    if (s < 3600) return Math.floor(s / 60) + ' min ' + s % 60 + ' s';
    if (s < 86400) return Math.floor(s / 3600) + ' h ' + Math.floor(s / 60) % 60 + ' min';
    return Math.floor(s / 86400) + ' d ' + Math.floor(s / 3600) % 24 + ' h';
  }
  function clock(ms) { return new Date(ms).toLocaleTimeString('en-GB'); }
  function plural(count, word) { return count + ' ' + word + (count === 1 ? '' : 's'); }
  // The growth of a count in a second; null when the proxy was restarted or has not been asked twice.
  function rate(now, then, seconds) {
    return then === undefined || then === null || seconds <= 0 || now < then ? null : (now - then) / seconds;
  }

  // ---- totals ----

  function makeTiles() {
    for (const [key, name] of TILES) {
      const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
      svg.setAttribute('preserveAspectRatio', 'none');
      svg.setAttribute('aria-hidden', 'true');
      svg.append(document.createElementNS('http://www.w3.org/2000/svg', 'polyline'));
      $('totals').append(element('div', { class: 'tile', id: 'tile-' + key }, element('b', {}, '–'), element('span', {}, name), svg));
    }
  }
  function median(values) {
    if (values.length === 0) return null;
    values.sort((a, b) => a - b);
    return values[Math.floor(values.length / 2)];
  }
  function drawTotals(now) {
    const then = before && now.uptime_s >= before.uptime_s ? before : null;
    const seconds = then ? (now.now_ms - then.now_ms) / 1000 : 0;
    const grows = (key) => rate(now.totals[key], then && then.totals[key], seconds);
    const figures = {
      events: grows('events'), sent: grows('events_sent'), clients: now.totals.clients,
      latency: median(now.shards.map((shard) => shard.latency_ms).filter((latency) => latency !== null)),
      received: grows('received_bytes'), written: grows('sent_bytes'), memory: now.memory.resident_bytes,
    };
    for (const [key, , show] of TILES) {
      const kept = history[key];
      // The document is a second old at most, so two requests may get the same one.
      if (!then || seconds > 0) kept.push(figures[key]);
      if (kept.length > KEPT) kept.shift();
      const newest = kept.length ? kept[kept.length - 1] : null;
      const tile = $('tile-' + key);
      set(tile.firstChild, show(newest));
      const most = Math.max(1e-9, ...kept.map((value) => value || 0));
      // The first minute takes the whole width, then the line gets denser.
      const width = Math.max(60, kept.length);
      const points = kept.map((value, at) => `${width - kept.length + at},${38 - 36 * (value || 0) / most}`);
      tile.querySelector('svg').setAttribute('viewBox', `0 0 ${width} 40`);
      tile.querySelector('polyline').setAttribute('points', points.join(' '));
    }
  }

  // ---- shards ----

  function shade(latency) {
    const at = latency === null ? 0 : SHADES.findIndex((bound) => latency < bound);
    return 'l' + (at < 0 ? SHADES.length : at);
  }
  function makeLegend() {
    const sample = (looks, letter) => element('span', { class: 'shard ' + looks, 'aria-hidden': 'true' }, element('span', {}, letter));
    for (const [state, [letter, name]] of Object.entries(STATES)) {
      if (state !== 'active') $('legend').append(element('li', {}, sample(state, letter), name));
    }
    $('legend').append(element('li', {}, sample('l0 sick', '!'), 'sick: events that are usual do not come'));
    $('legend').prepend(...[...SHADES, null].map((bound, at) => element('li', {}, sample('l' + at, ''),
      bound === null ? 'slower' : (at === 0 ? 'active, round trip under ' : 'under ') + bound + ' ms')));
  }
  function drawShards(now) {
    const grid = $('grid');
    const ids = now.shards.map((shard) => shard.id).join();
    if (grid.dataset.ids !== ids) {
      grid.dataset.ids = ids;
      cells.clear();
      grid.classList.toggle('many', now.shards.length > 200);
      grid.replaceChildren(...now.shards.map((shard) => {
        const cell = element('button', { type: 'button', tabindex: '-1', 'data-shard': shard.id, 'aria-pressed': 'false' }, element('span', {}));
        cells.set(shard.id, cell);
        return cell;
      }));
      if (!cells.has(focused)) focused = now.shards.length ? now.shards[0].id : null;
      if (cells.has(focused)) cells.get(focused).tabIndex = 0;
    }
    for (const shard of now.shards) {
      const cell = cells.get(shard.id);
      const [letter, name] = STATES[shard.state] || ['?', shard.state];
      const looks = 'shard ' + (shard.state === 'active' ? shade(shard.latency_ms) : shard.state) + (shard.sick ? ' sick' : '');
      if (cell.className !== looks) cell.className = looks;
      if (cell.dataset.state !== shard.state) cell.dataset.state = shard.state;
      set(cell.firstChild, letter || (shard.sick ? '!' : ''));
      const label = `shard ${shard.id}, ${name}` + (shard.latency_ms === null ? '' : `, ${Math.round(shard.latency_ms)} ms`)
        + (shard.sick ? `, sick: ${shard.sick}` : '');
      if (cell.title !== label) { cell.title = label; cell.setAttribute('aria-label', label); }
      cell.setAttribute('aria-pressed', String(shard.id === selected));
    }
    const all = now.shards_of_bot;
    set($('shards-note'), now.shards.length + (all === null ? '' : ` of ${all} of the bot`));
  }
  function focusOn(id) {
    if (!cells.has(id)) return;
    if (cells.has(focused)) cells.get(focused).tabIndex = -1;
    focused = id;
    cells.get(id).tabIndex = 0;
    cells.get(id).focus();
  }
  // The cell above or below is the nearest one of the next row that there is on the screen.
  function neighbour(cell, rows) {
    const from = cell.getBoundingClientRect();
    let best = null, least = Infinity;
    for (const other of cells.values()) {
      const to = other.getBoundingClientRect();
      const down = (to.top - from.top) / rows;
      if (down < 4) continue;
      const distance = down * 10000 + Math.abs(to.left - from.left);
      if (distance < least) { least = distance; best = other; }
    }
    return best;
  }
  function onKey(event) {
    const cell = event.target.closest('button[data-shard]');
    if (!cell) return;
    const all = [...cells.values()], at = all.indexOf(cell);
    const target = {
      ArrowRight: () => all[at + 1], ArrowLeft: () => all[at - 1], Home: () => all[0], End: () => all[all.length - 1],
      ArrowDown: () => neighbour(cell, 1), ArrowUp: () => neighbour(cell, -1),
    }[event.key];
    if (target) {
      event.preventDefault();
      const to = target();
      if (to) focusOn(Number(to.dataset.shard));
    } else if (event.key === 'Escape') select(null);
  }
  function select(id) {
    selected = id === selected ? null : id;
    for (const [shard, cell] of cells) cell.setAttribute('aria-pressed', String(shard === selected));
    $('details').hidden = true;
    if (selected !== null) soon();
  }
  function counted(counts) {
    const all = Object.entries(counts);
    return all.length ? all.map(([name, count]) => `${name} ${count}`).join(', ') : 'none';
  }
  function drawDetails(now) {
    const shard = now.shard, row = now.shards.find((row) => row.id === selected);
    if (!shard || !row || shard.id !== selected) { $('details').hidden = true; return; }
    const then = before && before.shards.find((then) => then.id === selected);
    const seconds = before ? (now.now_ms - before.now_ms) / 1000 : 0;
    const newest = rate(row.events, then && then.events, seconds);
    const facts = [
      ['state', STATES[shard.state][1]],
      ['session with Discord since', shard.session_age_s === null ? 'a former process' : duration(shard.session_age_s)],
      ['sequence', String(shard.sequence)], ['events/s', number(newest)], ['last event', row.silent_s === null ? '–' : duration(row.silent_s) + ' ago'],
      ['guilds', `${row.guilds}, ${row.unavailable_guilds} of them down`], ['members in the cache', String(shard.members)],
      ['reconnects', counted(shard.reconnects)], ['IDENTIFYs / RESUMEs', `${shard.identifies} / ${shard.resumes}`],
      ['sequences that Discord skipped', String(shard.sequence_gaps)], ['commands that wait', String(shard.commands_queued)],
      ['cache', bytes(shard.cache_bytes)], ['events kept for clients', `${shard.log_events}, ${bytes(shard.log_bytes)}`],
      ['sessions without connection', String(shard.sessions_detached)], ['clients that were closed', counted(shard.clients_closed)],
    ];
    if (row.sick) facts.unshift(['the watchdog finds', `${row.sick}, which is not usual`]);
    if (shard.fatal) facts.unshift(['why', `${shard.fatal.code}: ${shard.fatal.advice}`]);
    const list = element('dl', {}, ...facts.map(([name, value]) => element('div', {}, element('dt', {}, name), element('dd', {}, value))));
    const head = ['client', 'encoding', 'compression', 'connected', 'events behind', 'seconds behind', 'sequence', 'bytes waiting', 'bytes in the kernel'];
    const table = element('table', {}, element('tr', {}, ...head.map((name) => element('th', { scope: 'col' }, name))),
      ...shard.clients.map((client) => element('tr', {}, ...[client.library, client.encoding, client.compression,
        duration(client.connected_s), client.lag, client.lag_s, client.sequence, client.waiting_bytes,
        client.kernel_bytes === null ? '–' : client.kernel_bytes].map((value) => element('td', {}, String(value))))));
    const close = element('button', { type: 'button', class: 'close' }, 'Close');
    close.addEventListener('click', () => { const id = selected; select(null); focusOn(id); });
    const focusWasHere = document.activeElement && document.activeElement.className === 'close';
    const more = row.clients > shard.clients.length ? [element('p', { class: 'soft' }, `and ${row.clients - shard.clients.length} more`)] : [];
    $('details').replaceChildren(close, element('h3', {}, `Shard ${shard.id}`), list,
      element('div', { class: 'scrolls' }, ...(shard.clients.length ? [table] : [])), ...more);
    $('details').dataset.shard = shard.id;
    $('details').hidden = false;
    if (focusWasHere) close.focus();
  }

  // ---- the rest ----

  function bar(name, value, most, text) {
    return element('div', { class: 'bar' }, element('span', {}, name),
      element('progress', { max: most || 1, value: Math.min(value || 0, most || 1), 'aria-label': name }), element('span', {}, text));
  }
  function drawIdentify(now) {
    const identify = now.identify;
    if (!identify) { $('identify').replaceChildren(now.rest_error ? `GET /gateway/bot: ${now.rest_error.what}` : 'The budget is not known yet.'); return; }
    const lines = [bar('left today', identify.remaining, identify.total, `${identify.remaining} of ${identify.total}`)];
    lines.push(element('p', { class: 'soft' }, `${identify.max_concurrency} at a time` +
      (identify.renewed_in_s === null ? '' : `, renewed in ${duration(identify.renewed_in_s)}`)));
    lines.push(element('p', { id: 'queue' }, identify.waiting === 0 && identify.last_shard_in_s === null
      ? (identify.asking ? 'No shard waits for the queue of this proxy.' : 'No shard waits.')
      : `${plural(identify.waiting, 'shard')} in the queue` + (identify.last_shard_in_s === null ? ''
        : `; the last one is up in about ${duration(identify.last_shard_in_s)} (${clock(now.now_ms + 1000 * identify.last_shard_in_s)})`)));
    if (identify.asking || identify.queue_error) lines.push(element('p', { id: 'external-queue' },
      `${plural(identify.asking, 'shard')} waiting for identify_queue` + (identify.queue_error ? `, which fails: ${identify.queue_error}` : '')));
    $('identify').replaceChildren(...lines);
  }
  function drawCores(now) {
    const then = before && now.uptime_s >= before.uptime_s ? before : null;
    const seconds = then ? (now.now_ms - then.now_ms) / 1000 : 0;
    if (then && seconds <= 0) return;
    const load = (cpu, earlier) => rate(cpu, earlier, seconds);
    const show = (name, busy, more) => [bar(name, busy, 1, busy === null ? '–' : Math.round(100 * busy) + ' %'),
      ...(more ? [element('p', { class: 'soft more' }, more)] : [])];
    const lines = now.cores.flatMap((core, at) => show(`data ${core.core} (CPU ${core.cpu})`,
      load(core.cpu_seconds, then && then.cores[at] && then.cores[at].cpu_seconds),
      `${plural(core.shards, 'shard')}, longest turn ${number(1000 * core.longest_turn_s)} ms`));
    lines.push(...show(`control (CPU ${now.control_core.cpu})`, load(now.control_core.cpu_seconds, then && then.control_core.cpu_seconds)));
    $('cores').replaceChildren(...lines);
  }
  function drawMemory(now) {
    const memory = now.memory, all = memory.resident_bytes || memory.cache_bytes + memory.log_bytes;
    $('memory').replaceChildren(bar('cache', memory.cache_bytes, all, bytes(memory.cache_bytes)),
      bar('events kept', memory.log_bytes, all, bytes(memory.log_bytes)), bar('process', all, all, bytes(all)));
  }
  function drawClients(now) {
    const head = element('tr', {}, ...['library', 'encoding', 'compression', 'clients'].map((name) => element('th', { scope: 'col' }, name)));
    $('clients').replaceChildren(head, ...now.clients.map((group) => element('tr', {},
      ...[group.library, group.encoding, group.compression, group.clients].map((value) => element('td', {}, String(value))))));
  }
  function drawFeed(now) {
    const newest = now.feed.length ? now.feed[now.feed.length - 1].n : 0;
    if (newest === feedSeen) return;
    feedSeen = newest;
    $('feed').replaceChildren(...now.feed.slice().reverse().map((entry) => {
      const why = entry.reason ? ` (${entry.reason.replaceAll('_', ' ')}${entry.code ? ' ' + entry.code : ''})` : '';
      const who = entry.shard === undefined ? '' : `shard ${entry.shard}: `;
      return element('li', {}, element('time', {}, clock(entry.at_ms)), who + (entry.note || `${entry.from} → ${entry.to}${why}`));
    }));
  }
  function health(kind, text) {
    if ($('health').dataset.health !== kind) $('health').dataset.health = kind;
    set($('health'), text);
    document.title = (kind === 'bad' ? '⚠ ' : '') + 'gateway-proxy';
  }
  function draw(now) {
    const all = now.shards.length, active = now.states.active, sick = now.shards.filter((shard) => shard.sick).length;
    if (now.stopping) health('bad', 'The proxy stops');
    else if (all === 0) health('bad', now.rest_error ? `Waiting for Discord: ${now.rest_error.what}` : 'The shards have not been started yet');
    else if (active === all && sick) health('bad', `${plural(sick, 'shard')} ${sick === 1 ? 'does' : 'do'} not get the usual events`);
    else if (active === all) health('good', all === 1 ? 'The shard is active' : `All ${all} shards are active`);
    else health('bad', `${all - active} of ${plural(all, 'shard')} ${all - active === 1 ? 'is' : 'are'} not active`);
    set($('version'), now.version);
    set($('since'), `up ${duration(now.uptime_s)}, ${plural(now.totals.guilds, 'guild')}, ${plural(now.totals.clients, 'client')}`);
    $('main').hidden = false;
    $('login').hidden = true;
    drawTotals(now); drawShards(now); drawDetails(now); drawIdentify(now); drawCores(now); drawMemory(now); drawClients(now); drawFeed(now);
    if (!before || now.now_ms !== before.now_ms) before = now;
    updates += 1;
    document.documentElement.dataset.updates = updates;
  }

  // ---- asking ----

  let timer = null, asking = false;
  function soon() { clearTimeout(timer); timer = setTimeout(ask, 0); }
  async function ask() {
    if (asking) return;
    asking = true;
    clearTimeout(timer);
    try {
      const token = sessionStorage.getItem(TOKEN);
      const answer = await fetch('status.json' + (selected === null ? '' : '?shard=' + selected),
        { cache: 'no-store', headers: token ? { Authorization: 'Bearer ' + token } : {} });
      if (answer.status === 401) {
        if (token) set($('refused'), 'That is not the token.');
        sessionStorage.removeItem(TOKEN);
        $('main').hidden = true;
        $('login').hidden = false;
        health('unknown', 'Who are you?');
        asking = false;
        return;
      }
      if (answer.status === 404) selected = null;
      if (answer.ok) { draw(await answer.json()); lastAnswer = Date.now(); }
    } catch (error) {
      health('bad', 'The proxy does not answer' + (lastAnswer ? ` since ${clock(lastAnswer)}` : ''));
    }
    asking = false;
    timer = setTimeout(ask, PERIOD);
  }

  const given = new URLSearchParams(location.search).get('token');
  if (given) {
    // It must not stay in the address bar, where it is copied and shown.
    sessionStorage.setItem(TOKEN, given);
    window.history.replaceState(null, '', location.pathname);
  }
  $('login').addEventListener('submit', (event) => {
    event.preventDefault();
    sessionStorage.setItem(TOKEN, $('token').value.trim());
    $('token').value = '';
    set($('refused'), '');
    ask();
  });
  $('grid').addEventListener('click', (event) => {
    const cell = event.target.closest('button[data-shard]');
    if (!cell) return;
    focusOn(Number(cell.dataset.shard));
    select(Number(cell.dataset.shard));
  });
  $('grid').addEventListener('keydown', onKey);
  makeTiles();
  makeLegend();
  ask();
})();
