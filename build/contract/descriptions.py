"""What the tensors mean: the words of the table in model_repository/TENSORS.md.

The config.pbtxt files have the tensors' names, types and routes, and the registry what a runtime
supports; `write_table.py` joins the three and checks that none is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOM = "room"  # the rooms do it, with every runtime
SAMPLING = "sampling"  # every runtime that samples does it
REFUSED = "refused"  # refused by name: no runtime does it


@dataclass(frozen=True)
class Input:
    """One input. `by` is ROOM, SAMPLING, REFUSED or the name of a runtime's feature."""

    by: str
    default: str
    must_be: str
    meaning: str


# One tensor a line.
# fmt: off
INPUTS: dict[str, Input] = {
    "text_input": Input(ROOM, "", "UTF-8, not empty", "a raw prompt, trusted: special tokens in it are special. It gets a `<|begin_of_text|>` unless it begins with one, or the tokenizer uses none. Send this or `messages`"),
    "messages": Input(ROOM, "", "JSON list of 1 to 1024 messages", "a chat in OpenAI's form, rendered with the checkpoint's chat template as transformers does. No text in it becomes a control token (an added token that is marked special, ends a generation or is written by the template itself). A message with several calls is rendered as one message for each call if the template takes no more. Keys that clients add for other servers are ignored; other unknown keys are refused. Refused if the checkpoint has no template"),
    "tools": Input(ROOM, "none", "JSON list of functions", "functions for the chat template, in OpenAI's form (the template named `tool_use`, if there is one, renders them); only with `messages`"),
    "decoder_text_input": Input(REFUSED, "", "empty", "encoder-decoder models"),
    "max_tokens": Input(ROOM, "as many as fit", "1 to the engine's `max_seq_len` less the prompt", "the largest number of tokens to generate"),
    "min_tokens": Input("min_tokens", "0", "0 to `max_tokens`", "before this many tokens, neither an end id nor a stop word ends the text"),
    "min_length": Input("min_tokens", "0", "as `min_tokens`", "older name of `min_tokens`"),
    "num_return_sequences": Input(ROOM, "1", "1 to 16", "sequences for each prompt, with the seeds `seed`, `seed` + 1, ...; must be 1 for the `ensemble` of a unary repository"),
    "beam_width": Input(REFUSED, "1", "1", "beam search"),
    "stream": Input(ROOM, "false", "false, true", "true: one response for the tokens of each step. `tensorrt_llm_bls` gives one response anyway; a unary repository refuses true"),
    "exclude_input_in_output": Input(ROOM, "true; false in a unary repository, as upstream", "false, true", "false puts the prompt (with `messages` the rendered prompt) before an unstreamed answer"),
    "stop_words": Input(ROOM, "none", "up to 16, each up to 256 bytes", "end the text; matched on text, across token boundaries. A stop word that is the text of a special token also stops at that token. Empty ones are ignored"),
    "include_stop_str_in_output": Input(ROOM, "false", "false, true", "true: the stop word that ended the text is part of it (unless a special token was matched, which is not text)"),
    "bad_words": Input("bad_words", "none", "up to 128, each up to 256 bytes", "never generated: the tokens of each word, alone and after a space. Other letter case and longer tokens that contain the word are not banned. Empty ones are ignored"),
    "end_id": Input(ROOM, "none", "at least -1", "one more id that ends the generation, besides the checkpoint's own. With -1, or an id outside the vocabulary, no id ends it"),
    "pad_id": Input(ROOM, "the first end id", "at least -1", "pads the prompts of a batch; the model never sees it"),
    "ignore_eos": Input(ROOM, "false", "false, true", "true: no end id ends the generation"),
    "skip_special_tokens": Input(ROOM, "true", "false, true", "false: generated special tokens appear as text"),
    "temperature": Input(SAMPLING, "unset", "0 to 100", "0: greedy. Unset: 1 if `top_k`, `top_p` or `min_p` is set, otherwise greedy (upstream is greedy without `top_k` and `top_p` whatever the temperature)"),
    "top_k": Input(SAMPLING, "0: unset", "0 or more", "1: greedy"),
    "top_p": Input(SAMPLING, "0: unset", "at most 1", "0 or below: unset. The share is of what `top_k` leaves (SGLang: of the whole distribution)"),
    "min_p": Input("min_p", "0: unset", "0 to 1", "smallest probability of a token, as a share of the likeliest token's (SGLang: only with `enable_deterministic_inference` false)"),
    "seed": Input(SAMPLING, "none: each request draws its own", "0 to 2^64 - 1", "the same request with the same seed draws the same tokens, whatever else is in the batch. An engine that cannot promise this refuses a seed: TensorRT-LLM with its TorchSampler (the only sampler from 1.3.0rc26 on) and SGLang with `enable_deterministic_inference` false"),
    "random_seed": Input(SAMPLING, "as `seed`", "as `seed`", "older name of `seed`"),
    "repetition_penalty": Input("repetition_penalty", "1", "above 0, up to 100", "for all tokens of prompt and output: divides positive logits, multiplies negative ones"),
    "presence_penalty": Input("presence_penalty", "0", "-2 to 2", "OpenAI's: subtracted from the logit of every token that was generated before"),
    "frequency_penalty": Input("frequency_penalty", "0", "-2 to 2", "OpenAI's: subtracted once for each time that the token was generated before"),
    "length_penalty": Input(ROOM, "", "finite", "no effect: only beam search uses it"),
    "embedding_bias_words": Input("embedding_bias", "none", "up to 512, each up to 256 bytes", "words whose tokens, alone and after a space, get a bias"),
    "embedding_bias_weights": Input("embedding_bias", "none", "one for each word, each at most 1e30", "added to the logits of the word's tokens"),
    "guided_decoding_guide_type": Input("guided_decoding", "none", "`json`, `json_schema`, `regex`, `ebnf_grammar`, `choice`", "the kind of guide that the whole output must match"),
    "guided_decoding_guide": Input("guided_decoding", "none", "up to 64 KiB of UTF-8, nested up to 64 deep (a schema 128); empty with `json`", "the schema, regex or grammar; for `choice` a JSON list of strings, of which the output is exactly one; `json` is any object or array"),
    "logprobs": Input("logprobs", "none", "0 to 20", "gives `top_logprobs`: for each token, and for this many of the likeliest. OpenVINO takes only 0"),
    "return_log_probs": Input("logprobs", "false", "false, true", "true: gives `output_log_probs` and `cum_log_probs`"),
    "return_context_logits": Input(REFUSED, "false", "false", "logits of the prompt"),
    "return_generation_logits": Input(REFUSED, "false", "false", "logits of the output"),
    "return_perf_metrics": Input(ROOM, "false", "false, true", "true: gives times, KV cache blocks and draft tokens with every response"),
    "return_kv_cache_reuse_stats": Input(ROOM, "false", "false, true", "older name of `return_perf_metrics`"),
    "return_num_input_tokens": Input(ROOM, "true (upstream: false)", "false, true", "false: leaves out `num_input_tokens`. true: gives it with every response"),
    "return_num_output_tokens": Input(ROOM, "true (upstream: false)", "false, true", "false: leaves out `num_output_tokens`"),
    "return_token_ids": Input(ROOM, "false", "false, true", "true: gives `token_ids`"),
    "priority": Input(ROOM, "0", "-100 to 100", "the waiting request with the lowest number starts first"),
    "timeout_ms": Input(ROOM, "0: none", "0 or more", "counts from admission; the text then ends with the finish reason `timeout`"),
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
    "preprocessing.STOP_WORDS_DICT": Input(ROOM, "none", "as `stop_words`", "gives `STOP_WORDS_IDS`, for callers that call the steps themselves"),
    "preprocessing.END_ID": Input(ROOM, "the first end id", "at least -1", "gives `OUT_END_ID`, for callers that call the steps themselves"),
    "preprocessing.IMAGE_BYTES": Input(REFUSED, "none", "none", "images"),
    "preprocessing.IMAGE_URL": Input(REFUSED, "none", "none", "images"),
    "preprocessing.IMAGES": Input(REFUSED, "none", "none", "images"),
    "preprocessing.VIDEO_BYTES": Input(REFUSED, "none", "none", "video"),
    "tensorrt_llm.input_ids": Input(ROOM, "required", "token ids", "the prompts, padded to one length"),
    "tensorrt_llm.input_lengths": Input(ROOM, "the whole row", "1 to the row's size", "number of tokens in each prompt"),
    "tensorrt_llm.request_output_len": Input(ROOM, "required", "as `max_tokens`", "`max_tokens`"),
    "tensorrt_llm.stop": Input(ROOM, "false", "false, true", "true: stops all requests that have this request's id. The answer is an empty final response without error, even if there are none"),
    "tensorrt_llm.pad_id": Input(ROOM, "", "at least -1", "no effect, but a wrong value is refused"),
    "tensorrt_llm.stop_words_list": Input(ROOM, "none", "up to 16 words, up to 256 ids in all", "stop words as ids; matched on the text that the ids stand for"),
    "tensorrt_llm.bad_words_list": Input("bad_words", "none", "up to 256 words, up to 2048 ids in all", "token sequences that are never generated"),
    "tensorrt_llm.embedding_bias": Input("embedding_bias", "none", "one for each token, each at most 1e30, at most 1024 of them not 0", "added to each token's logit"),
    "tensorrt_llm.early_stopping": Input(ROOM, "", "any", "no effect: only beam search uses it"),
    "tensorrt_llm.beam_search_diversity_rate": Input(ROOM, "", "finite", "no effect: only beam search uses it"),
    "tensorrt_llm.runtime_top_p_min": Input(REFUSED, "0", "0", "`top_p` that decays"),
    "tensorrt_llm.runtime_top_p_decay": Input(REFUSED, "0", "0", "`top_p` that decays"),
    "tensorrt_llm.runtime_top_p_reset_ids": Input(REFUSED, "0", "0", "`top_p` that decays"),
    "tensorrt_llm.draft_input_ids": Input(REFUSED, "none", "none", "draft tokens from a request"),
    "tensorrt_llm.draft_logits": Input(REFUSED, "none", "none", "draft tokens from a request"),
    "tensorrt_llm.draft_acceptance_threshold": Input(REFUSED, "0", "0", "draft tokens from a request"),
    "tensorrt_llm.decoder_input_ids": Input(REFUSED, "none", "one id", "encoder-decoder models; the one id that `preprocessing` sends has no effect"),
    "tensorrt_llm.decoder_input_lengths": Input(ROOM, "", "any", "no effect: belongs to `decoder_input_ids`"),
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
    "postprocessing.CUM_LOG_PROBS": Input(ROOM, "", "any", "no effect; older clients send it"),
    "postprocessing.OUTPUT_LOG_PROBS": Input(ROOM, "", "any", "no effect; older clients send it"),
    "postprocessing.CONTEXT_LOGITS": Input(ROOM, "", "any", "no effect; older clients send it"),
    "postprocessing.GENERATION_LOGITS": Input(ROOM, "", "any", "no effect; older clients send it"),
    "postprocessing.STREAM_KEY": Input(ROOM, "none", "", "`stream_key`; without it `postprocessing` cannot stop the request when its client leaves"),
}

NEVER = "never: no runtime gives it"
LAST = "a sequence's last response"
OUTPUTS: dict[str, tuple[str, str]] = {  # name -> (when it is sent, what it is)
    "text_output": ("always", "the new text: whole characters; empty while no character is complete. Its shape `[n]` has one dimension"),
    "cum_log_probs": ("`return_log_probs`", "sum of the log probabilities of the sequence so far"),
    "output_log_probs": ("`return_log_probs`", "log probability (natural logarithm, at temperature 1) of each new token"),
    "top_logprobs": ("`logprobs`", "JSON list with one object for each new token: `token_id`, `token`, `bytes`, `logprob`, and `top_logprobs`, a list with the same fields for the likeliest tokens"),
    "context_logits": (NEVER, "logits of the prompt"),
    "generation_logits": (NEVER, "logits of the output"),
    "finish_reason": (LAST, "`stop`, `length`, `cancelled` or `timeout`; an error comes as a status, not as a response"),
    "stop_reason": (LAST, "the stop word that ended the sequence, otherwise empty"),
    "is_finished": ("always", "whether this is the sequence's last response"),
    "batch_index": ("batches larger than 1", "the row of the batch"),
    "sequence_index": ("`num_return_sequences` above 1", "the sequence of the row"),
    "num_input_tokens": ("a sequence's last response; every response with `return_num_input_tokens` true", "number of tokens in the prompt"),
    "num_output_tokens": ("always", "number of tokens in this response, without an echoed prompt"),
    "token_ids": ("`return_token_ids`", "ids of the tokens in this response, including those whose text is still held back"),
    "kv_cache_alloc_new_blocks": ("`return_perf_metrics`", "0: no runtime reports it"),
    "kv_cache_reused_blocks": ("`return_perf_metrics`", "0: no runtime reports it"),
    "kv_cache_alloc_total_blocks": ("`return_perf_metrics`", "0: no runtime reports it"),
    "arrival_time_ns": ("`return_perf_metrics`", "when the request was admitted, in ns since the epoch"),
    "first_scheduled_time_ns": ("`return_perf_metrics`", "when its first forward pass began"),
    "first_token_time_ns": ("`return_perf_metrics`", "when its first token came"),
    "last_token_time_ns": ("`return_perf_metrics`", "when its last token came"),
    "acceptance_rate": ("`return_perf_metrics`", "0: no runtime reports draft tokens"),
    "total_accepted_draft_tokens": ("`return_perf_metrics`", "0: no runtime reports draft tokens"),
    "total_draft_tokens": ("`return_perf_metrics`", "0: no runtime reports draft tokens"),
}

STEP_OUTPUTS: dict[str, str] = {  # "model.TENSOR", where the ensemble does not return it
    "preprocessing.INPUT_ID": "the prompts, padded to one length",
    "preprocessing.REQUEST_INPUT_LEN": "number of tokens in each prompt",
    "preprocessing.REQUEST_OUTPUT_LEN": "`max_tokens`",
    "preprocessing.BAD_WORDS_IDS": "the tokens of `bad_words`; within `ensemble` only if there are any",
    "preprocessing.EMBEDDING_BIAS": "the bias of every token; if there is none, empty, and left out within `ensemble`",
    "preprocessing.STOP_WORDS_IDS": "the tokens of each stop word",
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
    "tensorrt_llm.output_ids": "the new token ids `[1, 1, tokens]`, after the prompt's if an unstreamed answer echoes it",
    "tensorrt_llm.sequence_length": "how many `output_ids` there are",
    "tensorrt_llm.text_carry": "bytes that were held back and are text now",
    "tensorrt_llm.text_hold": "how many bytes at the end are held back",
    "tensorrt_llm.text_keep_special": "whether special tokens are text; sent only if they are",
    "tensorrt_llm.stream_key": "the request's key; `postprocessing` stops the request by it when the client leaves",
}
