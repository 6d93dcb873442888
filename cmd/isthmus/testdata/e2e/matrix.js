// A Matrix client made with matrix-bot-sdk: matrix.js URL TOKEN. Each line on
// standard input is a call of one of the library's methods, {"call": NAME,
// "args": [...]}; its result comes back as {"type": "done", ...}. Each other line
// on standard output is an event that the library received in a room.
'use strict';
const Module = require('module');
const readline = require('readline');

// The library loads its native encryption even if it is never used; it is not
// installed here, as these rooms are not encrypted.
const load = Module._load;
Module._load = function (name, ...rest) {
    return name === '@matrix-org/matrix-sdk-crypto-nodejs' ? {} : load.call(this, name, ...rest);
};
const { LogService, LogLevel, MatrixClient, MemoryStorageProvider } = require('matrix-bot-sdk');

LogService.setLevel(LogLevel.ERROR);
LogService.setLogger(new (class {
    constructor() { for (const l of ['trace', 'debug', 'info', 'warn', 'error']) this[l] = (...a) => console.error(...a); }
})());
const print = (e) => process.stdout.write(JSON.stringify(e) + '\n');
const client = new MatrixClient(process.argv[2], process.argv[3], new MemoryStorageProvider());
client.on('room.event', (room, e) => print({ ...e, room, kind: e.type, type: 'event' }));
client.on('room.invite', (room, e) => print({ type: 'invite', room, sender: e.sender }));
// A method may be one of a part: "unstableApis.addReactionToEvent".
const call = (name, args) => {
    const steps = name.split('.');
    const on = steps.slice(0, -1).reduce((o, s) => o[s], client);
    return on[steps.at(-1)](...args);
};
readline.createInterface({ input: process.stdin }).on('line', async (line) => {
    const c = JSON.parse(line);
    try {
        print({ type: 'done', call: c.call, result: await call(c.call, c.args) });
    } catch (e) {
        print({ type: 'failed', call: c.call, error: String(e && e.message) });
    }
}).on('close', () => process.exit(0));
client.start().then(() => print({ type: 'started' }), (e) => { console.error(e); process.exit(1); });
