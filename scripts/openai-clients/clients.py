"""What OpenAI's own Python client makes of a served model: every case that its users rely on, one line each.

    python clients.py http://127.0.0.1:8000 KEY MODEL [CASE…]

Needs the packages openai and websockets.
"""

import asyncio
import base64
import json
import struct
import sys
import urllib.error
import urllib.parse
import urllib.request

import openai
import websockets

ADDRESS, KEY, MODEL = sys.argv[1:4]
WANTED = sys.argv[4:]
client = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key=KEY, max_retries=0)
HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CASES = []


def case(test):
    if not WANTED or test.__name__ in WANTED:
        CASES.append(test)
    return test


def chat(**more):
    return client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 24, "temperature": 0} | more)


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@case
def models():
    names = [model.id for model in client.models.list()]
    assert MODEL in names, names
    assert client.models.retrieve(MODEL).object == "model"


@case
def an_answer_with_usage():
    answer = chat()
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 24 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.model == MODEL and answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")


@case
def length_is_told():
    answer = chat(max_tokens=2)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 2
    assert chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=2).usage.completion_tokens == 2


@case
def a_stream_says_the_same():
    whole = chat().choices[0].message.content
    chunks = list(chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert text_of(chunks) == whole, (text_of(chunks), whole)
    assert len(chunks) > 3, "it comes in pieces"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] in (["stop"], ["length"])
    assert len({c.id for c in chunks}) == 1 and all(c.usage is None for c in chunks)


@case
def a_stream_with_usage():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


@case
def several_answers():
    answer = chat(n=3, temperature=1.0, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    chunks = [c for c in chat(n=2, temperature=1.0, stream=True) if c.choices]
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1}
    assert len(chat(n=2).choices) == 2, "also when each is the likeliest"


@case
def a_seed_repeats():
    first, again, other = (chat(temperature=1.0, seed=seed).choices[0].message.content for seed in (1, 1, 2))
    assert first == again != other, (first, again, other)


@case
def stop_ends_the_answer():
    whole = chat(max_tokens=24).choices[0].message.content
    word = whole.split()[2]
    cut = chat(stop=[word, "\n\n\n\n"])
    assert cut.choices[0].finish_reason == "stop" and cut.choices[0].message.content == whole.split(word)[0]
    assert text_of(list(chat(stop=word, stream=True))) == whole.split(word)[0]


@case
def log_probabilities():
    told = chat(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert told and all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in told)
    assert all(token.top_logprobs[0].logprob >= token.logprob - 1e-6 for token in told), "the likeliest comes first"
    streamed = [c.choices[0].logprobs for c in chat(logprobs=True, top_logprobs=3, stream=True) if c.choices]
    streamed = [token for part in streamed if part for token in part.content]
    assert [token.token for token in streamed] == [token.token for token in told]
    assert chat().choices[0].logprobs is None


@case
def a_tool_is_called():
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        answer = chat(tools=[TOOL], tool_choice=choice, max_tokens=64)
        assert answer.choices[0].finish_reason == "tool_calls", answer
        call = answer.choices[0].message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "get_weather" and arguments["city"] in ("Rome", "Oslo"), call
        assert isinstance(arguments["days"], int)


@case
def a_tool_is_called_in_a_stream():
    chunks = [c for c in chat(tools=[TOOL], tool_choice="required", max_tokens=64, stream=True) if c.choices]
    deltas = [delta for c in chunks for delta in c.choices[0].delta.tool_calls or []]
    assert deltas[0].id and deltas[0].function.name == "get_weather" and all(delta.index == 0 for delta in deltas)
    assert len(deltas) > 3, "the arguments come in pieces"
    assert json.loads("".join(delta.function.arguments or "" for delta in deltas))["city"] in ("Rome", "Oslo")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, tools=[TOOL], tool_choice="required", max_tokens=64, temperature=0
    ) as stream:
        final = stream.get_final_completion()
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments)["city"] in ("Rome", "Oslo")


@case
def what_a_tool_said_is_taken_back():
    call = chat(tools=[TOOL], tool_choice="required", max_tokens=64).choices[0].message
    said = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "Sunny, 25 degrees."}
    answer = chat(messages=[*HELLO, call.model_dump(exclude_none=True), said], tools=[TOOL], tool_choice="none")
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls


@case
def an_answer_by_a_schema():
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    named = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    found = json.loads(chat(response_format=named, max_tokens=64).choices[0].message.content)
    assert set(found) == {"name", "age"} and 0 <= found["age"] <= 99, found
    assert chat(response_format={"type": "text"}).choices[0].message.content


@case
def texts_are_gone_on_with():
    answer = client.completions.create(model=MODEL, prompt=["One, two,", "Red, green,"], max_tokens=6, temperature=0, logprobs=2)
    assert len(answer.choices) == 2 and all(len(c.logprobs.tokens) > 0 for c in answer.choices)
    pieces = client.completions.create(model=MODEL, prompt="One, two,", max_tokens=6, temperature=0, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == answer.choices[0].text


@case
def texts_are_embedded():
    coded = client.embeddings.create(model=MODEL, input=["A cat sat.", "A dog ran."])  # The client asks for base64.
    plain = client.embeddings.create(model=MODEL, input="A cat sat.", encoding_format="float").data[0].embedding
    assert len(coded.data) == 2 and len(coded.data[0].embedding) == len(plain)
    assert all(abs(a - b) < 1e-5 for a, b in zip(coded.data[0].embedding, plain))
    assert abs(sum(x * x for x in plain) - 1) < 1e-3 and coded.usage.prompt_tokens > 0
    raw = client.embeddings.with_raw_response.create(model=MODEL, input="A cat sat.", encoding_format="base64")
    first = struct.unpack("<f", base64.b64decode(json.loads(raw.text)["data"][0]["embedding"])[:4])[0]
    assert abs(first - plain[0]) < 1e-5


def fails(kind, code, param, ask):
    try:
        ask()
    except kind as error:
        assert error.code == code and error.param == param, (error.code, error.param)
        assert error.message and error.status_code == kind.status_code if hasattr(kind, "status_code") else True
    else:
        raise AssertionError(f"no {kind.__name__}")


@case
def failures():
    fails(openai.NotFoundError, "model_not_found", "model", lambda: chat(model="nobody"))
    fails(openai.BadRequestError, "bad_value", "temperature", lambda: chat(temperature=-1))
    fails(openai.BadRequestError, "bad_value", "max_tokens", lambda: chat(max_tokens=0))
    fails(openai.BadRequestError, "invalid_value", "messages", lambda: chat(messages=[]))
    picture = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]
    fails(openai.BadRequestError, "invalid_value", "messages[0].content[0]", lambda: chat(messages=[{"role": "user", "content": picture}]))
    stranger = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="wrong", max_retries=0)
    fails(openai.AuthenticationError, "invalid_api_key", None, lambda: stranger.models.list())


@case
def who_goes_away_holds_up_nobody():
    for _ in range(3):
        stream = chat(max_tokens=2000, stream=True)
        next(iter(stream))
        stream.close()
    assert chat(max_tokens=4).choices[0].message.content


@case
def many_at_once():
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{ADDRESS}/v1", api_key=KEY, max_retries=0) as many:
            create = many.chat.completions.create
            asked = [create(model=MODEL, messages=HELLO, max_tokens=8, temperature=0) for _ in range(8)]
            return await asyncio.gather(*asked)

    assert len({answer.choices[0].message.content for answer in asyncio.run(ask())}) == 1


def get(path, **query):
    request = urllib.request.Request(f"{ADDRESS}{path}?{urllib.parse.urlencode(query)}", headers={"Authorization": f"Bearer {KEY}"})
    return json.load(urllib.request.urlopen(request, timeout=300))


@case
def answer_by_transformers_parameters():
    assert get("/health")["status"] in ("healthy", "ok")
    prompt = "The capital of France is"
    greedy = dict(prompt=prompt, max_length=20, min_length=0, do_sample="False", num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0)
    plain = get("/answer", **greedy)["generated_text"]
    assert plain.startswith(prompt) and plain == get("/answer", **greedy)["generated_text"]
    short, long = (get("/answer", **greedy | more)["generated_text"] for more in ({"max_length": 12}, {"min_length": 18}))
    assert len(short) < len(long), (short, long)
    beams = get("/answer", prompt=prompt, max_length=30, min_length=20)
    assert beams["generated_text"].startswith(prompt), "beams and sampling, as by default"
    said = get("/answer", **greedy | {"chat": "true", "max_length": 60})["generated_text"]
    assert said and not said.startswith(prompt)
    try:
        get("/answer")
    except urllib.error.HTTPError as error:
        assert error.code == 422 and json.load(error)["detail"]
    else:
        raise AssertionError("a prompt is needed")


@case
def a_websocket_holds_a_session():
    address = ADDRESS.replace("http", "ws", 1) + "/ws/chat"

    async def talk(session, *messages):
        async with websockets.connect(address, additional_headers={"Authorization": f"Bearer {KEY}"}) as socket:
            say = lambda value: socket.send(json.dumps(value))
            await say({"type": "open", "session": session, "params": {"max_new_tokens": 8}})
            kept = json.loads(await socket.recv())["session"]
            for message in messages:
                await say({"type": "say", "content": message})
                told, text = {"type": "text", "text": ""}, ""
                while told["type"] == "text":
                    text, told = text + told["text"], json.loads(await socket.recv())
                assert told["type"] == "done" and told["message"]["content"] == text, told
            return kept

    first = asyncio.run(talk(None, "Who are you?", "And then?"))
    kept = asyncio.run(talk(first["id"], "Goodbye."))
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant"] * 2
    assert kept["messages"][0]["content"] == "Who are you?"


failed = 0
for test in CASES:
    try:
        test()
        print(f"ok      {test.__name__}")
    except Exception as error:  # Each case is told, also behind one that fails.
        failed += 1
        print(f"FAILED  {test.__name__}: {type(error).__name__}: {error}")
print(f"{len(CASES) - failed} of {len(CASES)} cases pass with openai {openai.__version__}")
sys.exit(bool(failed))
