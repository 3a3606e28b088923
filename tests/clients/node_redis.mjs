// node-redis against Siltstone, in both protocol versions. Argument: the port.
import assert from 'node:assert/strict';
import { createClient, WatchError } from 'redis';

const port = Number(process.argv[2]);

for (const RESP of [2, 3]) {
  const client = createClient({ RESP, socket: { host: '127.0.0.1', port, connectTimeout: 60_000 } });
  client.on('error', (error) => { throw error; });
  await client.connect();
  await client.flushAll();

  assert.equal(await client.ping(), 'PONG');
  assert.equal(await client.set('plain', 'text', { expiration: { type: 'EX', value: 1000 } }), 'OK');
  assert.equal(await client.get('plain'), 'text');
  assert.ok((await client.ttl('plain')) > 990);
  assert.equal(await client.set('plain', 'other', { condition: 'NX' }), null);
  assert.equal(await client.incrBy('counter', 41), 41);
  assert.deepEqual(await client.mGet(['plain', 'missing']), ['text', null]);
  await assert.rejects(client.incr('plain'), /not an integer/);

  // Commands sent together travel as one pipeline.
  const many = Array.from({ length: 1000 }, (_, index) => client.set(`key:${index}`, `${index}`));
  assert.ok((await Promise.all(many)).every((reply) => reply === 'OK'));
  const scanned = new Set();
  for await (const keys of client.scanIterator({ MATCH: 'key:*', COUNT: 100 })) {
    for (const key of [keys].flat()) scanned.add(key);
  }
  assert.equal(scanned.size, 1000);

  assert.deepEqual(await client.multi().set('a', '1').incr('a').get('a').exec(), ['OK', 2, '2']);
  const other = await client.duplicate().connect();
  await client.watch('a');
  await other.incr('a');
  await assert.rejects(client.multi().set('a', '0').exec(), WatchError);
  assert.equal(await client.get('a'), '3');

  assert.equal(await client.dbSize(), 1003);
  await other.close();
  await client.close();
}
console.log('node-redis all well');
