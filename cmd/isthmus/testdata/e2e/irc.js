// An IRC client made with irc-framework. Its one argument is the options of
// irc-framework's connect, as JSON. Each line on standard input is one thing to
// do: {"raw": LINE}, {"say"|"notice"|"action": [TARGET, TEXT]}. Each line on
// standard output is what the client made of something it received.
'use strict';
const readline = require('readline');
const { Client } = require('irc-framework');

const print = (e) => process.stdout.write(JSON.stringify(e) + '\n');
const client = new Client();
const options = JSON.parse(process.argv[2]);
client.requestCap(options.caps || []);

// The library reports a line of history once more, as part of its batch.
for (const type of ['registered', 'join', 'part', 'quit', 'nick', 'topic', 'privmsg', 'notice', 'action', 'tagmsg', 'mode',
    'loggedin', 'sasl failed', 'userlist', 'kick', 'irc error', 'nick in use', 'socket close']) {
    client.on(type, (e) => print({ ...e, type, via: e && e.batch ? e.batch.type : '', batch: undefined }));
}
client.on('batch end chathistory', (e) => print({
    type: 'chathistory', target: e.params[0],
    lines: e.commands.map((c) => ({ nick: c.nick, command: c.command, text: c.params[c.params.length - 1], msgid: c.getTag('msgid') })),
}));
client.on('raw', (e) => {
    const m = e.from_server && require('irc-framework').ircLineParser(e.line);
    if (m && ['FAIL', 'REDACT', 'ERROR', 'BATCH', '431', '433', '403', '404', '421', '482'].includes(m.command)) {
        print({ type: m.command, nick: m.nick, params: m.params, tags: m.tags });
    }
});
readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const c = JSON.parse(line);
    if (c.raw) client.raw(c.raw);
    for (const what of ['say', 'notice', 'action']) {
        if (c[what]) client[what](...c[what]);
    }
}).on('close', () => process.exit(0));
client.connect({ auto_reconnect: false, ...options });
