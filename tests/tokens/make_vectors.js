// Vectors by the npm package macaroon (js-macaroon), written to npm.tsv beside this file:
//   npm install macaroon@3.0.4 && node make_vectors.js > npm.tsv
// Version 3.0.4 doubles its buffer at every byte that it appends, so beyond three caveats it runs out of memory.
// Columns: what, root key in hex, identifier in hex, caveats in hex with commas between, token.
const macaroon = require('macaroon');
const hex = bytes => Buffer.from(bytes).toString('hex');
const url = bytes => Buffer.from(bytes).toString('base64url');
const standard = bytes => Buffer.from(bytes).toString('base64');

const key = Uint8Array.from({length: 32}, (_, i) => i);
const id = Uint8Array.from([1, ...Array.from({length: 16}, (_, i) => 0xf0 + i)]);

function make(what, {rootKey = key, identifier = id, location, caveats = [], third = false}, form = url) {
  const m = macaroon.newMacaroon({identifier, rootKey, location, version: 2});
  for (const c of caveats) m.addFirstPartyCaveat(c);
  if (third) m.addThirdPartyCaveat(key, 'who are you', 'https://example.org');
  const bytes = form === JSON ? null : m.exportBinary();
  const token = form === JSON ? JSON.stringify(m.exportJSON()) : form(bytes);
  console.log([what, hex(rootKey), hex(identifier), caveats.map(c => hex(Buffer.from(c))).join(','), token].join('\t'));
}

make('no caveat', {});
make('one caveat', {caveats: ['app = web']});
make('one of each', {caveats: ['app = web,api', 'allow = list,set', 'expires = 2027-01-01T00:00:00Z']});
make('padded, standard alphabet', {caveats: ['app = web', 'allow = list,set,deploy,machine,exec']}, standard);
make('a caveat of 300 bytes', {caveats: ['x'.repeat(300)]});
make('a caveat that is not ASCII', {caveats: ['größer = ☃']});
make('a short root key', {rootKey: Uint8Array.from([7])});
make('a root key of 100 bytes', {rootKey: Uint8Array.from({length: 100}, (_, i) => 255 - i)});
make('refused: location', {location: 'coffer', caveats: ['app = web']});
make('refused: third-party', {caveats: ['app = web'], third: true});
make('refused: JSON', {caveats: ['app = web']}, JSON);
