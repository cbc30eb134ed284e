// MQTT.js in headless Chromium: arguments are the origin of the page, the URL of the broker, the version, a topic, and
// perhaps a cookie, NAME=VALUE, of the broker's host.
// Prints "came TOPIC PAYLOAD-LENGTH" for each message, or "refused".
import { chromium } from 'playwright-core';

const [origin, url, version, topic, cookie] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  // Pages from elsewhere may not open connections to this machine, except in a test.
  args: ['--no-sandbox', '--ignore-certificate-errors', '--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests'],
});
try {
  const page = await browser.newPage();
  if (cookie) {
    const [name, value] = [cookie.slice(0, cookie.indexOf('=')), cookie.slice(cookie.indexOf('=') + 1)];
    await page.context().addCookies([{ name, value, url: url.replace(/^ws/, 'http') }]);
  }
  await page.route('**/*', (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html><p>page' }));
  await page.goto(origin);
  await page.unroute('**/*');
  await page.addScriptTag({ path: new URL('node_modules/mqtt/dist/mqtt.min.js', import.meta.url).pathname });
  const lines = await page.evaluate(
    ([url, version, topic]) =>
      new Promise((resolve) => {
        const lines = [];
        const client = mqtt.connect(url, { protocolVersion: Number(version), reconnectPeriod: 0, connectTimeout: 8000 });
        const refused = () => resolve(['refused']);
        client.on('error', refused);
        client.on('close', refused);
        client.on('connect', async () => {
          await client.subscribeAsync(topic, { qos: 2 });
          for (const size of [5, 70000]) await client.publishAsync(topic, 'x'.repeat(size), { qos: 2 });
        });
        client.on('message', (name, payload) => {
          lines.push(`came ${name} ${payload.length}`);
          if (lines.length === 2) resolve(lines);
        });
      }),
    [url, version, topic],
  );
  console.log(lines.join('\n'));
} finally {
  await browser.close();
}
