"""Inputs of upstream's contract that mean nothing here, declared because clients send them.

One that carries a value (anything but zero, false or empty) is refused by name.
"""

from __future__ import annotations

from request_inputs.rows import Arrays, InvalidRequest, Row, UnsupportedRequest, carries_value

NO_ENCODER = "a Llama model has no encoder"
NO_PROMPT_TABLE = "this engine takes no prompt tables"
NO_DRAFT = "this engine takes no draft tokens from a request"
NO_LORA = "this engine has no LoRA adapters"
NO_RETENTION = "this engine evicts KV cache blocks by age alone"
NO_LOOKAHEAD = "this engine has no lookahead decoding"
NO_LOGITS = "this engine keeps no logits"
NO_DECAY = "this engine has a fixed top_p"

MEANINGLESS: dict[str, str] = {
    "encoder_input_features": NO_ENCODER,
    "encoder_output_lengths": NO_ENCODER,
    "cross_attention_mask": NO_ENCODER,
    "skip_cross_attn_blocks": NO_ENCODER,
    "mrope_rotary_cos_sin": "Llama has its own rotary embedding",
    "mrope_position_deltas": "Llama has its own rotary embedding",
    "prompt_embedding_table": NO_PROMPT_TABLE,
    "prompt_table_extra_ids": NO_PROMPT_TABLE,
    "prompt_vocab_size": NO_PROMPT_TABLE,
    "draft_input_ids": NO_DRAFT,
    "draft_logits": NO_DRAFT,
    "draft_acceptance_threshold": NO_DRAFT,
    "lora_task_id": NO_LORA,
    "lora_weights": NO_LORA,
    "lora_config": NO_LORA,
    "return_context_logits": NO_LOGITS,
    "return_generation_logits": NO_LOGITS,
    "runtime_top_p_min": NO_DECAY,
    "runtime_top_p_decay": NO_DECAY,
    "runtime_top_p_reset_ids": NO_DECAY,
    "context_phase_params": "this engine runs prefill and decode together",
    "retention_token_range_starts": NO_RETENTION,
    "retention_token_range_ends": NO_RETENTION,
    "retention_token_range_priorities": NO_RETENTION,
    "retention_token_range_durations_ms": NO_RETENTION,
    "retention_decode_priority": NO_RETENTION,
    "retention_decode_duration_ms": NO_RETENTION,
    "lookahead_window_size": NO_LOOKAHEAD,
    "lookahead_ngram_size": NO_LOOKAHEAD,
    "lookahead_verification_set_size": NO_LOOKAHEAD,
}


def refuse_meaningless(arrays: Arrays) -> None:
    """Raises `UnsupportedRequest` for the first input whose feature does not exist here."""
    for name, why in MEANINGLESS.items():
        array = arrays.get(name)
        if array is None or not array.size:
            continue
        if carries_value(array) or name == "lora_task_id":  # 0 is a task like any other
            raise UnsupportedRequest(f"{name} carries a value and must carry none: {why}")
    # A decoder prompt of one pad id is what preprocessing makes when there is none.
    decoder = arrays.get("decoder_input_ids")
    if decoder is not None and decoder.shape[-1] > 1:
        raise UnsupportedRequest(
            f"decoder_input_ids carries a prompt and must carry none: {NO_ENCODER}"
        )


def refuse_beams(row: Row) -> None:
    """Raises `UnsupportedRequest` for more beams than one, `InvalidRequest` for fewer."""
    beams = row.integer("beam_width", 1, -(2**31), 2**31 - 1)
    if beams < 1:
        raise InvalidRequest(f"beam_width is {beams} and must be 1")
    if beams > 1:
        raise UnsupportedRequest(
            f"beam_width is {beams} and must be 1: this engine has no beam search"
        )
