// What OpenAI's own client for Node makes of a served model.
//
//     node clients.mjs http://127.0.0.1:8000 KEY MODEL
//
// Needs the package openai.

import assert from "node:assert/strict";
import OpenAI from "openai";

const [address, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello in one short sentence." }];
const chat = (more) => client.chat.completions.create({ model, messages, max_tokens: 24, temperature: 0, ...more });
const all = async (stream) => { const chunks = []; for await (const chunk of stream) chunks.push(chunk); return chunks; };
const tools = [{
    type: "function",
    function: {
        name: "get_weather",
        parameters: {
            type: "object", properties: { city: { type: "string", enum: ["Rome", "Oslo"] } }, required: ["city"],
            additionalProperties: false,
        },
    },
}];

const cases = {
    async models() {
        const names = [];
        for await (const one of client.models.list()) names.push(one.id);
        assert(names.includes(model), names.join());
    },
    async "an answer with usage"() {
        const answer = await chat();
        assert(answer.choices[0].message.content);
        assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    },
    async "a stream says the same, and its usage"() {
        const whole = (await chat()).choices[0].message.content;
        const chunks = await all(await chat({ stream: true, stream_options: { include_usage: true } }));
        assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), whole);
        assert(chunks.at(-1).usage.completion_tokens > 0);
    },
    async "a stream of several answers"() {
        const chunks = await all(await chat({ stream: true, n: 2, temperature: 1 }));
        assert.deepEqual(new Set(chunks.map((c) => c.choices[0].index)), new Set([0, 1]));
    },
    async "seed, stop and length"() {
        const text = async (more) => (await chat(more)).choices[0].message.content;
        assert.equal(await text({ temperature: 1, seed: 5 }), await text({ temperature: 1, seed: 5 }));
        const whole = await text();
        const word = whole.split(/\s+/)[2];
        assert.equal(await text({ stop: [word] }), whole.split(word)[0]);
        assert.equal((await chat({ max_tokens: 2 })).choices[0].finish_reason, "length");
    },
    async "log probabilities"() {
        const told = (await chat({ logprobs: true, top_logprobs: 2 })).choices[0].logprobs.content;
        assert(told.length > 0 && told.every((token) => token.top_logprobs.length === 2));
    },
    async "a tool is called, whole and streamed"() {
        const asked = { tools, tool_choice: "required", max_tokens: 64 };
        const answer = await chat(asked);
        assert.equal(answer.choices[0].finish_reason, "tool_calls");
        const call = answer.choices[0].message.tool_calls[0];
        assert(["Rome", "Oslo"].includes(JSON.parse(call.function.arguments).city));
        const stream = client.chat.completions.stream({ model, messages, temperature: 0, ...asked });
        const final = await stream.finalChatCompletion();
        assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
    },
    async embeddings() {
        const { data } = await client.embeddings.create({ model, input: ["A cat sat.", "A dog ran."] });
        const length = data[0].embedding.reduce((sum, x) => sum + x * x, 0);
        assert(data.length === 2 && Math.abs(length - 1) < 1e-3, `${data.length} ${length}`);
    },
    async completions() {
        const answer = await client.completions.create({ model, prompt: "One, two,", max_tokens: 6, temperature: 0 });
        assert(answer.choices[0].text);
    },
    async failures() {
        await assert.rejects(chat({ model: "nobody" }), (e) => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
        await assert.rejects(chat({ temperature: -1 }), (e) => e instanceof OpenAI.BadRequestError && e.param === "temperature");
        const stranger = new OpenAI({ baseURL: `${address}/v1`, apiKey: "wrong", maxRetries: 0 });
        await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
    },
    async "who goes away holds up nobody"() {
        const stream = await chat({ stream: true, max_tokens: 2000 });
        for await (const _ of stream) break;
        assert((await chat({ max_tokens: 4 })).choices[0].message.content);
    },
};

let failed = 0;
for (const [name, test] of Object.entries(cases)) {
    try {
        await test();
        console.log(`ok      ${name}`);
    } catch (error) {
        failed += 1;
        console.log(`FAILED  ${name}: ${error}`);
    }
}
const count = Object.keys(cases).length;
console.log(`${count - failed} of ${count} cases pass with the client for Node`);
process.exit(failed ? 1 : 0);
