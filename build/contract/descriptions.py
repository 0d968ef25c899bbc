"""What the tensors mean: the words of the table in model_repository/TENSORS.md.

The config.pbtxt files have the tensors' names, types and routes, and the registry what a runtime
honours; `write_table.py` joins the three and checks that none is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOM = "room"  # the rooms honour it, whatever the runtime
SAMPLING = "sampling"  # every runtime that samples honours it
REFUSED = "refused"  # refused by name: nothing here does it


@dataclass(frozen=True)
class Input:
    """One input. `by` is ROOM, SAMPLING, REFUSED or the name of a runtime's feature."""

    by: str
    default: str
    allowed: str
    meaning: str


# One tensor a line.
# fmt: off
INPUTS: dict[str, Input] = {
    "text_input": Input(ROOM, "", "UTF-8, not empty", "raw prompt, trusted: special tokens in it are special; one `<|begin_of_text|>` is put before it unless it has one, or the tokenizer begins texts without. This or `messages`"),
    "messages": Input(ROOM, "", "JSON list of 1 to 1024", "chat in OpenAI's form, rendered by the checkpoint's chat template as transformers does; no word of it becomes a control token (an added token that is called special, ends a generation or stands in what the template itself writes). Keys that clients add for other servers are ignored, others are refused. Refused where a checkpoint has no template"),
    "tools": Input(ROOM, "none", "JSON list", "functions for the template (`tool_use`, if it has a name), in OpenAI's form; with `messages` only"),
    "decoder_text_input": Input(REFUSED, "", "empty", "encoder-decoder models"),
    "max_tokens": Input(ROOM, "required; with `messages`: as many as fit", "1 to the engine's `max_seq_len` less the prompt", "most tokens to generate"),
    "min_tokens": Input("min_tokens", "0", "0 to `max_tokens`", "no end id, and no stop word, ends the text before"),
    "min_length": Input("min_tokens", "0", "as `min_tokens`", "its older name"),
    "num_return_sequences": Input(ROOM, "1", "1 to 16", "sequences for each prompt, with seeds `seed`, `seed` + 1, ...; 1 in a unary repository's `ensemble`"),
    "beam_width": Input(REFUSED, "1", "1", "beam search"),
    "stream": Input(ROOM, "false", "false, true", "a response for each step's tokens; `tensorrt_llm_bls` gives one response all the same; refused by a unary repository"),
    "exclude_input_in_output": Input(ROOM, "true; false in a unary repository, as upstream", "false, true", "false puts the prompt before an unstreamed answer; with `messages` that is the rendered prompt"),
    "stop_words": Input(ROOM, "none", "16 of 256 bytes", "matched on the text, wherever tokens begin and end; the text of a special token stops at that token too; empty ones are none"),
    "include_stop_str_in_output": Input(ROOM, "false", "false, true", "whether the text ends with the stop word that ended it; a special token is no text"),
    "bad_words": Input("bad_words", "none", "128 of 256 bytes", "never generated: each word's tokens, alone and after a space; not other letter case, not inside longer tokens. Empty ones are none"),
    "end_id": Input(ROOM, "none", "at least -1", "another id that ends the generation, besides all of the checkpoint's; -1, or one beyond the vocabulary: none does"),
    "pad_id": Input(ROOM, "the first end id", "at least -1", "fills up the prompts of a batch; never seen by the model"),
    "ignore_eos": Input(ROOM, "false", "false, true", "no end id ends the generation"),
    "skip_special_tokens": Input(ROOM, "true", "false, true", "false: special tokens that are generated appear as text"),
    "temperature": Input(SAMPLING, "unset", "0 to 100", "0: greedy; unset is 1 if `top_k`, `top_p` or `min_p` is set, else greedy (upstream: greedy without `top_k` and `top_p` even so)"),
    "top_k": Input(SAMPLING, "0: unset", "0 or more", "1: greedy"),
    "top_p": Input(SAMPLING, "0: unset", "at most 1", "0 and below: unset; a share of what `top_k` left (SGLang: of the whole distribution)"),
    "min_p": Input("min_p", "0: unset", "0 to 1", "least share of the likeliest token's probability (SGLang: only with `enable_deterministic_inference` false)"),
    "seed": Input(SAMPLING, "none: no two requests draw alike", "0 to 2^64 - 1", "equal seeds draw equally, whoever shares the batch; an engine that cannot promise that refuses a seed (TensorRT-LLM with its TorchSampler, the only one from 1.3.0rc26 on; SGLang with `enable_deterministic_inference` false)"),
    "random_seed": Input(SAMPLING, "as `seed`", "as `seed`", "its older name"),
    "repetition_penalty": Input("repetition_penalty", "1", "above 0, up to 100", "of all tokens of prompt and output: positive logits are divided by it, negative ones multiplied"),
    "presence_penalty": Input("presence_penalty", "0", "-2 to 2", "OpenAI's: subtracted from the logit of every token generated before"),
    "frequency_penalty": Input("frequency_penalty", "0", "-2 to 2", "OpenAI's: the same, for each time that it was generated"),
    "length_penalty": Input(ROOM, "", "finite", "acts only on beams: no effect"),
    "embedding_bias_words": Input("embedding_bias", "none", "512 of 256 bytes", "words whose tokens get a bias, alone and after a space"),
    "embedding_bias_weights": Input("embedding_bias", "none", "at most 1e30, one for each word", "what is added to the logits of its tokens"),
    "guided_decoding_guide_type": Input("guided_decoding", "none", "`json`, `json_schema`, `regex`, `ebnf_grammar`", "what the whole output must match"),
    "guided_decoding_guide": Input("guided_decoding", "none", "64 KiB", "the schema, regex or grammar; none with `json`, which is any object or array"),
    "logprobs": Input("logprobs", "none", "0 to 20", "gives `top_logprobs`: of each token and of as many of the likeliest (above 0: runtimes with top-N)"),
    "return_log_probs": Input("logprobs", "false", "false, true", "gives `output_log_probs` and `cum_log_probs`"),
    "return_context_logits": Input(REFUSED, "false", "false", "logits of the prompt"),
    "return_generation_logits": Input(REFUSED, "false", "false", "logits of the output"),
    "return_perf_metrics": Input(ROOM, "false", "false, true", "gives times, KV cache blocks and draft tokens with every response"),
    "return_kv_cache_reuse_stats": Input(ROOM, "false", "false, true", "its older name"),
    "return_num_input_tokens": Input(ROOM, "true (upstream: false)", "false, true", "false leaves `num_input_tokens` out, true gives it with every response"),
    "return_num_output_tokens": Input(ROOM, "true (upstream: false)", "false, true", "false leaves `num_output_tokens` out"),
    "return_token_ids": Input(ROOM, "false", "false, true", "gives `token_ids`"),
    "priority": Input(ROOM, "0", "-100 to 100", "of the waiting requests, the lowest number starts first"),
    "timeout_ms": Input(ROOM, "0: none", "0 or more", "from admission on; the text then ends with finish reason `timeout`"),
    "lora_task_id": Input(REFUSED, "none", "none", "LoRA adapters"),
    "lora_weights": Input(REFUSED, "none", "none", "LoRA adapters"),
    "lora_config": Input(REFUSED, "none", "none", "LoRA adapters"),
    "prompt_embedding_table": Input(REFUSED, "none", "none", "prompt tables"),
    "prompt_table_extra_id": Input(REFUSED, "0", "0", "prompt tables"),
    "prompt_vocab_size": Input(REFUSED, "0", "0", "prompt tables"),
    # Of tensorrt_llm_bls alone.
    "image_input": Input(REFUSED, "none", "none", "images"),
    "image_bytes_input": Input(REFUSED, "none", "none", "images"),
    "image_url_input": Input(REFUSED, "none", "none", "images"),
    "video_bytes_input": Input(REFUSED, "none", "none", "video"),
    "num_draft_tokens": Input(REFUSED, "0", "0", "a draft model"),
    "use_draft_logits": Input(REFUSED, "false", "false", "a draft model"),
}

# Inputs of the steps that the ensemble does not fill from a client's.
STEP_INPUTS: dict[str, Input] = {
    "preprocessing.STOP_WORDS_DICT": Input(ROOM, "none", "as `stop_words`", "gives `STOP_WORDS_IDS`, for callers that run the steps themselves"),
    "preprocessing.END_ID": Input(ROOM, "the first end id", "at least -1", "gives `OUT_END_ID`, likewise"),
    "preprocessing.IMAGE_BYTES": Input(REFUSED, "none", "none", "images"),
    "preprocessing.IMAGE_URL": Input(REFUSED, "none", "none", "images"),
    "preprocessing.IMAGES": Input(REFUSED, "none", "none", "images"),
    "preprocessing.VIDEO_BYTES": Input(REFUSED, "none", "none", "video"),
    "tensorrt_llm.input_ids": Input(ROOM, "required", "token ids", "the prompts, filled up to one length"),
    "tensorrt_llm.input_lengths": Input(ROOM, "the whole row", "1 to the row's size", "tokens of each prompt"),
    "tensorrt_llm.request_output_len": Input(ROOM, "required", "as `max_tokens`", "`max_tokens`"),
    "tensorrt_llm.stop": Input(ROOM, "false", "false, true", "true: stop the requests with this request's id; answered with an empty final success, also when there are none"),
    "tensorrt_llm.pad_id": Input(ROOM, "", "at least -1", "checked, otherwise without effect"),
    "tensorrt_llm.stop_words_list": Input(ROOM, "none", "16 words of 256 ids together", "stop words as ids; matched on the text of those ids"),
    "tensorrt_llm.bad_words_list": Input("bad_words", "none", "256 words of 2048 ids together", "token sequences that are never generated"),
    "tensorrt_llm.embedding_bias": Input("embedding_bias", "none", "at most 1e30, one for each token, 1024 not 0", "what is added to each token's logit"),
    "tensorrt_llm.early_stopping": Input(ROOM, "", "any", "acts only on beams: no effect"),
    "tensorrt_llm.beam_search_diversity_rate": Input(ROOM, "", "finite", "acts only on beams: no effect"),
    "tensorrt_llm.runtime_top_p_min": Input(REFUSED, "0", "0", "a `top_p` that decays"),
    "tensorrt_llm.runtime_top_p_decay": Input(REFUSED, "0", "0", "a `top_p` that decays"),
    "tensorrt_llm.runtime_top_p_reset_ids": Input(REFUSED, "0", "0", "a `top_p` that decays"),
    "tensorrt_llm.draft_input_ids": Input(REFUSED, "none", "none", "draft tokens from a request"),
    "tensorrt_llm.draft_logits": Input(REFUSED, "none", "none", "draft tokens from a request"),
    "tensorrt_llm.draft_acceptance_threshold": Input(REFUSED, "0", "0", "draft tokens from a request"),
    "tensorrt_llm.decoder_input_ids": Input(REFUSED, "none", "one id", "encoder-decoder models; the one id that `preprocessing` makes has no effect"),
    "tensorrt_llm.decoder_input_lengths": Input(ROOM, "", "any", "goes with `decoder_input_ids`: no effect"),
    "tensorrt_llm.encoder_input_features": Input(REFUSED, "none", "none", "encoder-decoder models"),
    "tensorrt_llm.encoder_output_lengths": Input(REFUSED, "0", "0", "encoder-decoder models"),
    "tensorrt_llm.cross_attention_mask": Input(REFUSED, "none", "none", "encoder-decoder models"),
    "tensorrt_llm.skip_cross_attn_blocks": Input(REFUSED, "false", "false", "encoder-decoder models"),
    "tensorrt_llm.mrope_rotary_cos_sin": Input(REFUSED, "none", "none", "multimodal rotary embedding"),
    "tensorrt_llm.mrope_position_deltas": Input(REFUSED, "0", "0", "multimodal rotary embedding"),
    "tensorrt_llm.prompt_table_extra_ids": Input(REFUSED, "none", "none", "prompt tables"),
    "tensorrt_llm.context_phase_params": Input(REFUSED, "none", "none", "prefill on another server"),
    "tensorrt_llm.retention_token_range_starts": Input(REFUSED, "none", "none", "KV cache retention"),
    "tensorrt_llm.retention_token_range_ends": Input(REFUSED, "none", "none", "KV cache retention"),
    "tensorrt_llm.retention_token_range_priorities": Input(REFUSED, "none", "none", "KV cache retention"),
    "tensorrt_llm.retention_token_range_durations_ms": Input(REFUSED, "none", "none", "KV cache retention"),
    "tensorrt_llm.retention_decode_priority": Input(REFUSED, "0", "0", "KV cache retention"),
    "tensorrt_llm.retention_decode_duration_ms": Input(REFUSED, "0", "0", "KV cache retention"),
    "tensorrt_llm.lookahead_window_size": Input(REFUSED, "0", "0", "lookahead decoding"),
    "tensorrt_llm.lookahead_ngram_size": Input(REFUSED, "0", "0", "lookahead decoding"),
    "tensorrt_llm.lookahead_verification_set_size": Input(REFUSED, "0", "0", "lookahead decoding"),
    "postprocessing.TOKENS_BATCH": Input(ROOM, "required", "token ids", "`output_ids`"),
    "postprocessing.SEQUENCE_LENGTH": Input(ROOM, "required", "0 to the size of `TOKENS_BATCH`", "`sequence_length`"),
    "postprocessing.TEXT_CARRY": Input(ROOM, "empty", "bytes", "`text_carry`"),
    "postprocessing.TEXT_HOLD": Input(ROOM, "0", "0 or more", "`text_hold`"),
    "postprocessing.TEXT_KEEP_SPECIAL": Input(ROOM, "false", "false, true", "`text_keep_special`"),
    "postprocessing.CUM_LOG_PROBS": Input(ROOM, "", "any", "older clients send it: no effect"),
    "postprocessing.OUTPUT_LOG_PROBS": Input(ROOM, "", "any", "older clients send it: no effect"),
    "postprocessing.CONTEXT_LOGITS": Input(ROOM, "", "any", "older clients send it: no effect"),
    "postprocessing.GENERATION_LOGITS": Input(ROOM, "", "any", "older clients send it: no effect"),
    "postprocessing.STREAM_KEY": Input(ROOM, "none", "", "`stream_key`; without it no cancellation reaches `tensorrt_llm`"),
}

NEVER = "never: no runtime here has it"
LAST = "a sequence's last response"
OUTPUTS: dict[str, tuple[str, str]] = {  # name -> (when it is sent, what it is)
    "text_output": ("always", "the new text: whole characters, empty while none is complete. `[n]`: one dimension"),
    "cum_log_probs": ("`return_log_probs`", "of the sequence so far"),
    "output_log_probs": ("`return_log_probs`", "natural logarithm of the probability of each new token at temperature 1"),
    "top_logprobs": ("`logprobs`", "JSON list, one object for each new token: `token_id`, `token`, `bytes`, `logprob`, and `top_logprobs` with the same of the likeliest"),
    "context_logits": (NEVER, "logits of the prompt"),
    "generation_logits": (NEVER, "logits of the output"),
    "finish_reason": (LAST, "`stop`, `length`, `cancelled` or `timeout`; an error is a status, not a response"),
    "stop_reason": (LAST, "the stop word that ended it, else empty"),
    "is_finished": ("always", "whether this is the sequence's last response"),
    "batch_index": ("batches larger than 1", "the row of the batch"),
    "sequence_index": ("`num_return_sequences` above 1", "the sequence of the row"),
    "num_input_tokens": ("a sequence's last response; always with `return_num_input_tokens` true", "tokens of the prompt"),
    "num_output_tokens": ("always", "tokens of this response, without an echoed prompt"),
    "token_ids": ("`return_token_ids`", "these tokens' ids, including those whose text is still held back"),
    "kv_cache_alloc_new_blocks": ("`return_perf_metrics`", "0: no runtime here reports it"),
    "kv_cache_reused_blocks": ("`return_perf_metrics`", "0: no runtime here reports it"),
    "kv_cache_alloc_total_blocks": ("`return_perf_metrics`", "0: no runtime here reports it"),
    "arrival_time_ns": ("`return_perf_metrics`", "admission, since the epoch"),
    "first_scheduled_time_ns": ("`return_perf_metrics`", "start of the first forward pass"),
    "first_token_time_ns": ("`return_perf_metrics`", "the first token"),
    "last_token_time_ns": ("`return_perf_metrics`", "the last token"),
    "acceptance_rate": ("`return_perf_metrics`", "0: no runtime here drafts tokens"),
    "total_accepted_draft_tokens": ("`return_perf_metrics`", "0: no runtime here drafts tokens"),
    "total_draft_tokens": ("`return_perf_metrics`", "0: no runtime here drafts tokens"),
}

STEP_OUTPUTS: dict[str, str] = {  # "model.TENSOR", where the ensemble does not hand it out
    "preprocessing.INPUT_ID": "the prompts, filled up to one length",
    "preprocessing.REQUEST_INPUT_LEN": "tokens of each prompt",
    "preprocessing.REQUEST_OUTPUT_LEN": "`max_tokens`",
    "preprocessing.BAD_WORDS_IDS": "`bad_words`; within `ensemble` only if there are any",
    "preprocessing.EMBEDDING_BIAS": "the bias of every token; empty, and within `ensemble` left out, if there is none",
    "preprocessing.STOP_WORDS_IDS": "each stop word's tokens",
    "preprocessing.DECODER_INPUT_ID": "one pad id",
    "preprocessing.REQUEST_DECODER_INPUT_LEN": "1",
    "preprocessing.OUT_END_ID": "`END_ID`, or the first end id",
    "preprocessing.OUT_PAD_ID": "`PAD_ID`, or the first end id",
    "preprocessing.OUT_PROMPT_TABLE_EXTRA_IDS": "never: there are no prompt tables",
    "preprocessing.PIXEL_VALUES": "never: there are no images",
    "preprocessing.ASPECT_RATIO_IDS": "never: there are no images",
    "preprocessing.ASPECT_RATIO_MASK": "never: there are no images",
    "preprocessing.CROSS_ATTENTION_MASK": "never: there are no images",
    "preprocessing.IMAGE_SIZES": "never: there are no images",
    "preprocessing.IS_VIDEO_INPUT": "never: there are no images",
    "preprocessing.ATTENTION_MASK": "never: there are no images",
    "preprocessing.IMAGE_GRID_THW": "never: there are no images",
    "preprocessing.VISION_INPUT_ID": "never: there are no images",
    "tensorrt_llm.output_ids": "the new token ids `[1, 1, tokens]`; an unstreamed echo has the prompt's before them",
    "tensorrt_llm.sequence_length": "their number",
    "tensorrt_llm.text_carry": "bytes held back before that are text now",
    "tensorrt_llm.text_hold": "how many bytes at the end are held back",
    "tensorrt_llm.text_keep_special": "sent when special tokens are text",
    "tensorrt_llm.stream_key": "the request's key, by which `postprocessing` stops it when its client is gone",
}
