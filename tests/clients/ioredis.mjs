// ioredis against Siltstone, in both protocol versions. Argument: the port.
import assert from 'node:assert/strict';
import { Redis } from 'ioredis';

const port = Number(process.argv[2]);

for (const protocol of [2, 3]) {
  const client = new Redis({ host: '127.0.0.1', port, protocol, connectTimeout: 60_000 });
  await client.flushall();

  assert.equal(await client.ping(), 'PONG');
  assert.equal(await client.set('plain', 'text', 'EX', 1000), 'OK');
  assert.equal(await client.get('plain'), 'text');
  assert.equal(await client.set('plain', 'other', 'NX'), null);
  assert.equal(await client.incrby('counter', 41), 41);
  assert.deepEqual(await client.mget('plain', 'missing'), ['text', null]);
  await assert.rejects(client.incr('plain'), /not an integer/);

  const binary = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  await client.set('binary', binary);
  assert.ok(binary.equals(await client.getBuffer('binary')));

  const pipeline = client.pipeline();
  for (let index = 0; index < 1000; index += 1) pipeline.set(`key:${index}`, index);
  assert.ok((await pipeline.exec()).every(([error, reply]) => error === null && reply === 'OK'));
  const scanned = new Set();
  for await (const keys of client.scanStream({ match: 'key:*', count: 100 })) {
    for (const key of keys) scanned.add(key);
  }
  assert.equal(scanned.size, 1000);

  assert.deepEqual(await client.multi().set('a', 1).incr('a').exec(), [[null, 'OK'], [null, 2]]);
  const other = client.duplicate();
  await client.watch('a');
  await other.incr('a');
  assert.equal(await client.multi().set('a', 0).exec(), null);
  assert.equal(await client.get('a'), '3');

  assert.equal(await client.dbsize(), 1004);
  await other.quit();
  assert.equal(await client.quit(), 'OK');
}
console.log('ioredis all well');
