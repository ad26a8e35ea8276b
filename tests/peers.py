#!/usr/bin/env python3
"""Random models and tokenizers, held against Hugging Face's Transformers and tokenizers.

    make peers [COUNT=100] [SEED=1] [PYTHON=python3]        or: python3 tests/peers.py COUNT SEED

Each model is a folder as people have them: Mamba, Falcon-Mamba or Mamba-2, with odd sizes, biases, an own head or
none, in one file or in several, in F32, F16, BF16 or F64, with or without the prefix "backbone.", with what
config.json may leave out left out. The ids that build/ch05_pretrained writes must be Transformers', and the logits
near. Each tokenizer is a tokenizer.json; texts must have the same ids, or the file be refused with a sentence. Without
torch and transformers nothing is tried, and a line says so."""
import json, os, random, re, subprocess, sys, tempfile, warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore")
try:
    import torch, tokenizers, transformers
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer
except ImportError as missing:
    print(f"peers: skipped: {missing}; to have it: pip install torch transformers")
    sys.exit(0)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)
PROGRAM = os.path.join(os.environ.get("BUILD", "build"), "ch05_pretrained")
KINDS = {"mamba": ("MambaConfig", "MambaForCausalLM"),
         "falcon_mamba": ("FalconMambaConfig", "FalconMambaForCausalLM"),
         "mamba2": ("Mamba2Config", "Mamba2ForCausalLM")}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


def run(*words):
    """Exit status, stdout and stderr of the program."""
    done = subprocess.run([PROGRAM, *(str(word).encode() for word in words)], capture_output=True, timeout=300, input=b"",
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


# ---- models ----------------------------------------------------------------------------------------------------------

def random_config(rng, kind):
    """Sizes that divide nothing, as keyword arguments of the kind's config."""
    sizes = dict(vocab_size=rng.choice([17, 48, 97, 130]), hidden_size=rng.choice([8, 12, 24, 33]), expand=rng.choice([1, 2, 2, 3]),
                 state_size=rng.choice([1, 4, 5, 16]), conv_kernel=rng.choice([2, 3, 4, 4, 5]), num_hidden_layers=rng.choice([1, 2, 3]),
                 use_bias=rng.random() < 0.3, use_conv_bias=rng.random() < 0.8, tie_word_embeddings=rng.random() < 0.5,
                 layer_norm_epsilon=rng.choice([1e-5, 1e-6, 0.01]), hidden_act=rng.choice(["silu", "silu", "swish"]),
                 residual_in_fp32=rng.random() < 0.8)
    if kind == "mamba2":
        sizes["hidden_size"] = rng.choice([8, 24, 36])
        inner = sizes["hidden_size"] * sizes["expand"]
        heads = rng.choice([h for h in range(1, inner + 1) if inner % h == 0 and h <= 12])
        sizes.update(num_heads=heads, head_dim=inner // heads, chunk_size=rng.choice([1, 4, 7, 16, 256]),
                     n_groups=rng.choice([g for g in range(1, heads + 1) if heads % g == 0]))
        if rng.random() < 0.5:
            sizes["time_step_limit"] = rng.choice([(0.0, 0.05), (0.01, 0.2), (0.001, float("inf"))])
    else:
        sizes["time_step_rank"] = rng.choice(["auto", 1, 3, 7])
    if kind == "falcon_mamba":
        sizes["mixer_rms_eps"] = rng.choice([1e-6, 1e-3, 0.05])
    return sizes


def shake(model, generator):
    """Weights far enough from those of a start that every one of them tells."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        with torch.no_grad():
            if name.endswith("A_log"):
                weight.copy_(0.7 * noise)
            elif name.endswith(("norm.weight", "norm_f.weight", ".D")):
                weight.copy_(1.0 + 0.3 * noise)
            elif name.endswith(("dt_bias", "dt_proj.bias")):
                weight.copy_(-2.0 + noise)
            elif weight.dim() == 1:
                weight.copy_(0.2 * noise)
            else:
                weight.copy_(noise * (0.6 if "embedding" in name else 1.0 / max(1, weight[0].numel()) ** 0.5))


def write_folder(rng, folder, kind, what):
    """One model in one of the ways in which people have them; `what` says which."""
    config_name, model_name = KINDS[kind]
    config = getattr(transformers, config_name)(**what["config"])
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    model = getattr(transformers, model_name)(config).float()
    shake(model, generator)
    what["dtype"] = rng.choice(["F32", "F32", "F32", "BF16", "F16", "F64"])
    what["mixed"] = rng.random() < 0.3  # a few vectors stay in F32, as in many published models
    what["shards"] = rng.random() < 0.3
    what["prefix"] = not (config.tie_word_embeddings and rng.random() < 0.3)
    what["own_head"] = config.tie_word_embeddings and what["prefix"] and rng.random() < 0.3
    model.save_pretrained(folder, max_shard_size="6KB" if what["shards"] else "1GB")
    for name in [n for n in os.listdir(folder) if n.endswith(".safetensors")]:
        path = os.path.join(folder, name)
        tensors = {n if what["prefix"] else n.removeprefix("backbone."):
                   t if what["mixed"] and n.endswith(("A_log", "D", "dt_bias", "norm.weight")) else t.to(DTYPES[what["dtype"]])
                   for n, t in load_file(path).items()}
        if what["own_head"] and any("embeddings" in n for n in tensors):
            table = next(t for n, t in tensors.items() if "embeddings" in n)
            tensors["lm_head.weight"] = torch.randn(table.shape, generator=generator).to(table.dtype)
        save_file(tensors, path, metadata={"format": "pt"})
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.exists(index):
        table = json.load(open(index))
        table["weight_map"] = {n if what["prefix"] else n.removeprefix("backbone."): f for n, f in table["weight_map"].items()}
        if what["own_head"]:
            table["weight_map"]["lm_head.weight"] = table["weight_map"]["backbone.embeddings.weight"]
        json.dump(table, open(index, "w"))
    write_config(rng, folder, config, what)


def write_config(rng, folder, config, what):
    """config.json with what is as usual left out, and generation_config.json."""
    path = os.path.join(folder, "config.json")
    given = json.load(open(path))
    usual = type(config)().to_dict()
    what["left_out"] = [n for n in list(given) if n in usual and usual[n] == given[n] and n not in ("model_type", "hidden_size")
                        and rng.random() < 0.4]
    for name in what["left_out"]:
        del given[name]
    if "time_step_limit" in given and rng.random() < 0.5:
        given["time_step_limit"] = [{"__float__": "Infinity"} if v == float("inf") else v for v in what["config"].get("time_step_limit", (0.0, float("inf")))]
    if given.get("time_step_rank") == -(-config.hidden_size // 16) and rng.random() < 0.5:
        given["time_step_rank"] = "auto"
    if rng.random() < 0.3:  # what is left from the original layout says nothing
        given.update(d_model=config.hidden_size + 1, n_layer=7, ssm_cfg={}, rms_norm=rng.random() < 0.5, fused_add_norm=True,
                     pad_vocab_size_multiple=8, residual_in_fp32=True)
    ends = [None, 3, [0, 5, 9], 10 ** 4, "absent"]
    for name, where in (("config", given), ("generation", {})):
        what[name + "_eos"] = rng.choice(ends)
        where.pop("eos_token_id", None)
        if what[name + "_eos"] != "absent":
            where["eos_token_id"] = what[name + "_eos"]
        if name == "config":
            json.dump(where, open(path, "w"))
    generation = os.path.join(folder, "generation_config.json")
    what["generation"] = rng.random() < 0.6
    if what["generation"]:
        if rng.random() < 0.4:
            where["repetition_penalty"] = what["penalty"] = rng.choice([1.1, 1.7])
        where.update(rng.choice([{}, {"temperature": 0.7, "top_k": 3}, {"do_sample": False, "top_p": 0.9}]))
        json.dump(where, open(generation, "w"))
    elif os.path.exists(generation):
        os.remove(generation)


def same_model(rng, folder, what):
    """What differs between the program and Transformers on this folder, in a sentence; None: nothing."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    count, prompt = 12, [rng.randrange(what["config"]["vocab_size"]) for _ in range(rng.choice([1, 2, 5, 11, 37, 37, 300]))]
    ids = torch.tensor([prompt])
    with torch.no_grad():
        wanted_logits = model(ids).logits[0].double()
        # One token at a time, Transformers leaves time_step_limit out, and contradicts its own prompts: then not so.
        all_ids = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
                                 use_cache="time_step_limit" not in what["config"])[0].tolist()
    wanted = all_ids[len(prompt):]
    stop = model.generation_config.eos_token_id
    if wanted and wanted[-1] in (stop if isinstance(stop, list) else [stop]):
        wanted.pop()
    words = ",".join(map(str, prompt))
    status, out, err = run(folder, "--ids", words, "-n", count)
    if status != 0:
        return f"refused: {err.strip()}"
    got = [int(w) for w in out.strip().split(",") if w]
    file = os.path.join(folder, "logits.out")
    status, out, err = run(folder, "--ids", words, "-n", 0, "--logits", file)
    if status != 0:
        return f"refused: {err.strip()}"
    logits = load_file(file)["logits"].double()
    off = float((logits - wanted_logits).abs().max() / wanted_logits.abs().max())
    what["off"] = off
    if not off < 5e-5:
        return f"logits differ by {off:.2g} of the largest"
    if got != wanted:
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        with torch.no_grad():
            row = model(torch.tensor([prompt + wanted[:at]])).logits[0, -1]
        top = row.topk(2).values
        if "penalty" in what or float(top[0] - top[1]) > 1e-4 * float(row.abs().max()):
            return f"ids {got}, Transformers {wanted}, prompt {words}"
        what["tie"] = True
    return None


def try_models(rng, count):
    differ, worst, kinds, ties = [], 0.0, {}, 0
    for i in range(count):
        kind = list(KINDS)[i % 3]
        what = {"kind": kind, "config": random_config(rng, kind)}
        with tempfile.TemporaryDirectory() as folder:
            write_folder(rng, folder, kind, what)
            difference = same_model(rng, folder, what)
            if difference and os.environ.get("KEEP"):
                subprocess.run(["cp", "-r", folder, os.path.join(os.environ["KEEP"], f"model{i}")], check=True)
        worst = max(worst, what.get("off", 0.0))
        ties += what.get("tie", False)
        kinds[kind] = kinds.get(kind, 0) + 1
        if difference:
            differ.append(difference)
            print(f"DIFFERS model {i}: {difference}\n    {what}")
    print(f"models: {count} folders ({', '.join(f'{n} {k}' for k, n in kinds.items())}), {len(differ)} differ, "
          f"{ties} ties; logits at most {worst:.2g} of the largest apart")
    return len(differ)


# ---- tokenizers ------------------------------------------------------------------------------------------------------

MARK = "\u2581"  # SentencePiece's for a space
PARTS = ["the rain", " the", " Rain", "ing", " and", "  ", "\n", "\r\n", "\t", " 2024", "1234567", "3.14", "é", "e\u0301", "Å", " naïve", "ﬁ",
         "ß", "İ", "ǅ", " привет", "мир", "日本", "語", " 한국", "\u1112\u1161\u11ab", " שלום", "نص", "٣٤", "½", "🙂", "👩\u200d👩", "\u00a0", "\u3000",
         "'s", "'LL", "'ſ", " don't", "!?", "...", " (x)", "--", "_a_", "$5", MARK, " " + MARK, "<0x41>", "<s>", "</s>", "<x>", "ABC", "a\u0323\u0307b", "\u200b", "\u0000".replace("\0", "\x01")]
PATTERNS = [r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"\p{N}{1,3}", r"\p{N}", r"[0-9][0-9][0-9]", r"[a-z]+"]


def random_text(rng):
    return "".join(rng.choice(PARTS) for _ in range(rng.choice([0, 1, 2, 5, 12, 40])))


def random_pre_tokenizer(rng):
    behavior = rng.choice(["isolated", "removed", "contiguous", "merged_with_previous", "merged_with_next"])
    pre = tokenizers.pre_tokenizers
    bytes_only = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    whole = pre.ByteLevel(add_prefix_space=rng.random() < 0.3, use_regex=True)
    split = pre.Split(tokenizers.Regex(rng.choice(PATTERNS)), "isolated" if rng.random() < 0.6 else behavior, invert=rng.random() < 0.15)
    return rng.choice([lambda: whole, lambda: whole, lambda: pre.Sequence([split, bytes_only]),
                       lambda: pre.Sequence([pre.Digits(rng.random() < 0.5), whole]), lambda: pre.Sequence([pre.Punctuation(behavior), whole]),
                       lambda: pre.Sequence([pre.Punctuation("contiguous"), whole, pre.Digits(False), pre.Split(tokenizers.Regex(PATTERNS[5]), "isolated")]),
                       lambda: pre.Sequence([pre.Split(rng.choice(["-", "é", " "]), behavior), whole]),
                       lambda: pre.Sequence([pre.WhitespaceSplit(), bytes_only]), lambda: pre.Sequence([pre.Whitespace(), bytes_only]),
                       lambda: pre.Metaspace()])()


def random_post_processor(rng, ids):
    """JSON; `ids` of <s> and </s>."""
    def template(*pieces):
        return {"type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "single": [{"Sequence": {"id": "A", "type_id": 0}} if p == "A" else {"SpecialToken": {"id": p, "type_id": 0}} for p in pieces],
                "special_tokens": {t: {"id": t, "ids": [i] * rng.choice([1, 1, 2]), "tokens": [t]} for t, i in ids.items()}}
    bert = {"type": "BertProcessing", "sep": ["</s>", ids["</s>"]], "cls": ["<s>", ids["<s>"]]}
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    one = rng.choice([template("<s>", "A"), template("A", "</s>"), template("<s>", "A", "</s>"), template("A"), template("A", "A"), bert,
                      {**bert, "type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False}])
    return rng.choice([None, level, one, one, {"type": "Sequence", "processors": [level, one]}, {"type": "Sequence", "processors": [one, one]}])


def random_steps(rng):
    """The normalizer, pre_tokenizer and decoder of a tokenizer of SentencePiece's kind, as JSON."""
    mark = MARK if rng.random() < 0.9 else "_"
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": mark}
    before, nfc, lower = {"type": "Prepend", "prepend": mark}, {"type": "NFC"}, {"type": "Lowercase"}
    steps = rng.choice([[before, spaces], [before, spaces], [spaces], [spaces, before], [nfc, before, spaces], [before, spaces, lower],
                        [lower, nfc, spaces], [spaces, {"type": "Replace", "pattern": {"String": "ing"}, "content": "in'"}, before]])
    meta = {"type": "Metaspace", "replacement": mark}
    scheme = rng.choice(["always", "first", "never"])
    meta |= rng.choice([{"prepend_scheme": scheme, "split": rng.random() < 0.5}, {"prepend_scheme": scheme, "split": False},
                        {"prepend_scheme": scheme}, {"add_prefix_space": True}, {"add_prefix_space": True, "prepend_scheme": "first"}])
    cut = rng.choice([{"type": "Punctuation", "behavior": rng.choice(["Isolated", "MergedWithPrevious", "MergedWithNext"])},
                      {"type": "Digits", "individual_digits": rng.random() < 0.5}, {"type": "WhitespaceSplit"}])
    sequence = {"type": "Sequence", "pretokenizers": rng.choice([[cut, meta], [meta, cut]])}
    normalizer, pre = rng.choice([({"type": "Sequence", "normalizers": steps}, None)] * 3 + [(None, meta)] * 3 +
                                 [({"type": "Sequence", "normalizers": steps}, meta), (None, sequence), (nfc, meta), (None, None)])
    strip = {"type": "Strip", "content": " ", "start": rng.choice([1, 1, 1, 2, 0]), "stop": 0}
    chain = [{"type": "Replace", "pattern": {"String": mark}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    decoder = rng.choice([chain + [strip]] * 3 + [chain, chain[:2], chain[1:], [chain[0], chain[2], strip]])
    return normalizer, pre, rng.choice([{"type": "Sequence", "decoders": decoder}] * 4 + [meta, meta, None, chain[0],
                                       {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}])


def random_pieces(rng, path):
    """A tokenizer.json of SentencePiece's kind: characters, marks for spaces, and bytes where there is no token."""
    normalizer, pre, decoder = random_steps(rng)
    unknown = "<unk>" if rng.random() < 0.8 else None
    tokenizer = Tokenizer(tokenizers.models.BPE(unk_token=unknown))
    text = json.loads(tokenizer.to_str()) | {"normalizer": normalizer, "pre_tokenizer": pre, "decoder": decoder}
    if rng.random() < 0.6:  # as SentencePiece learns: no token has a space inside
        text["pre_tokenizer"] = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "never", "split": True}
    tokenizer = Tokenizer.from_str(json.dumps(text))
    special = [tokenizers.AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    tokenizer.train_from_iterator([random_text(rng) for _ in range(150)], tokenizers.trainers.BpeTrainer(
        vocab_size=rng.choice([100, 200, 400]), special_tokens=special, limit_alphabet=rng.choice([20, 40, 1000]), show_progress=False,
        max_token_length=rng.choice([None, None, 6])))
    text = json.loads(tokenizer.to_str())
    some = rng.choice([256, 256, 256, 0, 200])  # not all of them: characters may still be unknown
    for byte in sorted(rng.sample(range(256), some)):
        text["model"]["vocab"].setdefault(f"<0x{byte:02X}>", len(text["model"]["vocab"]))
    tokenizer = Tokenizer.from_str(json.dumps(text))
    for _ in range(rng.choice([0, 0, 1, 3])):
        tokenizer.add_tokens([tokenizers.AddedToken(rng.choice(["<x>", "ABC", "é", " 2024", "rain", MARK, "$", "  ", "the ", "İ"]), normalized=rng.random() < 0.5,
                                                    special=rng.random() < 0.3, lstrip=rng.random() < 0.3, rstrip=rng.random() < 0.3, single_word=rng.random() < 0.3)])
    text = json.loads(tokenizer.to_str())
    model = text["model"]
    text["pre_tokenizer"] = pre
    model |= {"byte_fallback": rng.random() < 0.8, "fuse_unk": rng.random() < 0.7, "ignore_merges": rng.random() < 0.15}
    ids = {t["content"]: t["id"] for t in text["added_tokens"]}
    text["post_processor"] = random_post_processor(rng, {t: ids[t] for t in ("<s>", "</s>")})
    if rng.random() < 0.4:
        model["merges"] = [" ".join(m) for m in model["merges"]]
    json.dump(text, open(path, "w"), ensure_ascii=rng.random() < 0.5)
    return in_short(text)


def in_short(text):
    text = text | {"model": {k: v for k, v in text["model"].items() if k not in ("vocab", "merges")}}
    return json.dumps(text | {"added_tokens": [t for t in text["added_tokens"] if t["content"] not in ("<unk>", "<s>", "</s>")]})


def random_tokenizer(rng, path):
    """A tokenizer.json as some version may have written it; what it is, in a few words."""
    if rng.random() < 0.5:
        return random_pieces(rng, path)
    words = rng.random() < 0.15
    corpus = [random_text(rng) for _ in range(150)]
    special = [tokenizers.AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>")]
    if words:
        tokenizer = Tokenizer(tokenizers.models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = rng.choice([tokenizers.pre_tokenizers.Whitespace(), tokenizers.pre_tokenizers.WhitespaceSplit()])
        trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=200, special_tokens=["<unk>", *special], show_progress=False)
    else:
        unknown = "<unk>" if rng.random() < 0.3 else None
        tokenizer = Tokenizer(tokenizers.models.BPE(unk_token=unknown, fuse_unk=rng.random() < 0.3, ignore_merges=rng.random() < 0.2))
        tokenizer.pre_tokenizer = random_pre_tokenizer(rng)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        full = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        alphabet = full if rng.random() < 0.6 else rng.sample(sorted(full), 90)
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=rng.choice([280, 400, 600]), special_tokens=[*special, *([unknown] if unknown else [])],
                                                 initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False)
    tokenizer.normalizer = rng.choice([lambda: None, lambda: None, tokenizers.normalizers.NFC, tokenizers.normalizers.Lowercase,
                                       lambda: tokenizers.normalizers.Sequence([tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]),
                                       lambda: tokenizers.normalizers.Strip()] if rng.random() < 0.8 else [lambda: None])()
    tokenizer.train_from_iterator(corpus, trainer)
    if rng.random() < 0.4:
        tokenizer.add_tokens([tokenizers.AddedToken(rng.choice(["<x>", "ABC", "é", " 2024"]), normalized=rng.random() < 0.5, special=rng.random() < 0.5,
                                                    lstrip=rng.random() < 0.1)])
    text = json.loads(tokenizer.to_str())
    text["post_processor"] = random_post_processor(rng, {t: tokenizer.token_to_id(t) for t in ("<s>", "</s>")})
    model = text["model"]
    if not words and rng.random() < 0.4:
        model["merges"] = [" ".join(m) for m in model["merges"]]
    for key in ("fuse_unk", "byte_fallback", "ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if key in model and rng.random() < 0.3:
            del model[key]
    for key in ("version", "truncation", "padding"):
        if rng.random() < 0.3:
            del text[key]
    if not words and rng.random() < 0.2:
        del model["type"]
    json.dump(text, open(path, "w"), ensure_ascii=rng.random() < 0.5)
    return in_short(text)


def write_babbler(folder):
    """A model that says anything, so that all kinds of tokens come one after another."""
    model = transformers.MambaForCausalLM(transformers.MambaConfig(vocab_size=700, hidden_size=8, state_size=2, num_hidden_layers=1, eos_token_id=None))
    model.save_pretrained(folder)


def same_answer(rng, model, folder, peer):
    """What differs between an answer and what tokenizers decodes of its ids, in a sentence; None: nothing."""
    prompt = rng.randrange(3, 60)
    words = [model, "--ids", prompt, "-n", 60, "--temperature", 50, "--top-k", 0, "--seed", rng.randrange(1000)]
    ids = [int(w) for w in run(*words)[1].strip().split(",")]
    status, out, err = run(*words, "--tokenizer", folder)
    begin = peer.decode([prompt], skip_special_tokens=False)
    wanted = peer.decode([prompt, *ids], skip_special_tokens=False)
    if not begin or "\ufffd" in begin:  # nothing to begin with
        return None
    got, rest = out.removesuffix("\n"), wanted.removeprefix(begin)
    if "ByteLevel" in str(peer.decoder):  # a broken character is one U+FFFD there, here one a byte
        got, rest = (re.sub("\ufffd+", "\ufffd", t) for t in (got, rest))
    if status != 0 or got != rest:
        return f"answer {out!r}{err}, tokenizers {wanted!r} of {prompt}, {ids}"
    return None


def try_tokenizers(rng, count):
    differ, refused, same, none = 0, {}, 0, 0
    babbler = tempfile.TemporaryDirectory()
    write_babbler(babbler.name)
    for i in range(count):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tokenizer.json")
            what = random_tokenizer(rng, path)
            try:
                peer = Tokenizer.from_file(path)
            except Exception:  # nor does it run there
                none += 1
                continue
            for _ in range(12):
                text = random_text(rng)
                status, out, err = run(folder, "--tokenize", "--", text)
                if status == 1 and "tokenizer.json: " in err:
                    reason = err.split("tokenizer.json: ")[1].split(" (at byte")[0].strip()
                    refused[reason] = refused.get(reason, 0) + 1
                    break
                got = [int(line.split()[0]) for line in out.splitlines()[:-1]] if status == 0 else err
                try:
                    wanted = peer.encode(text).ids
                except BaseException as error:  # a panic: it has no ids of its own
                    wanted = None if status == 1 else got if "panic" in repr(error).lower() else str(error)
                if wanted is not None and got != wanted:
                    differ += 1
                    print(f"DIFFERS tokenizer {i}: {text!r}: {got}, tokenizers {wanted}\n    {what}")
                    if os.environ.get("KEEP"):
                        subprocess.run(["cp", path, os.path.join(os.environ["KEEP"], f"tokenizer{i}.json")], check=True)
                    break
            else:
                difference = same_answer(rng, babbler.name, folder, peer)
                same += difference is None
                differ += difference is not None
                if difference:
                    print(f"DIFFERS tokenizer {i}: {difference}\n    {what}")
    print(f"tokenizers: {count}, {same} with the same ids, {sum(refused.values())} refused, {none} that tokenizers does not read, {differ} differ")
    for reason, times in sorted(refused.items(), key=lambda item: -item[1]):
        print(f"    refused {times} times: {reason}")
    return differ


def main():
    count, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 100, int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print(f"peers: transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, torch {torch.__version__}; seed {seed}")
    differ = try_models(random.Random(seed), count) + try_tokenizers(random.Random(seed), count)
    print(f"peers: {differ} differ")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
