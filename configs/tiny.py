"""A toy with every structural feature of the published model: for tests and the quickstart."""

from ml_collections import ConfigDict

from configs import published


def get_config(arg: str = "") -> ConfigDict:
    """Sizes of the model; the vocabulary is that of the tokenizer that comes with the project."""
    from crab_jax.tokens import Tokenizer

    config = published.get_config(arg).copy_and_resolve_references()
    config.unlock()
    m = config.model
    m.llama.update(
        vocab_size=Tokenizer.tiny().size, hidden_size=64, intermediate_size=160, num_layers=2, num_heads=4,
        num_kv_heads=4, max_positions=2048,
    )  # fmt: skip
    m.llama.lora.update(rank=4, alpha=8.0)
    m.clip.update(image_size=112, hidden_size=48, intermediate_size=96, num_layers=4, num_heads=4, taps=(1, 2, 3))
    m.beats.update(
        embed_dim=32, encoder_layers=2, encoder_embed_dim=48, encoder_ffn_embed_dim=96, encoder_attention_heads=4,
        conv_pos=16, conv_pos_groups=4,
    )  # fmt: skip
    for projector in (m.vl_projector, m.al_projector):
        projector.update(
            num_queries=4, hidden_size=48, num_heads=4, intermediate_size=96, out_features=64, encoder_width=48,
            vocab_size=32, max_positions=16,
        )  # fmt: skip
    m.mask_decoder.update(
        in_features=64, image_features=48, grid=8, image_size=112, low_res=56, prompt_dim=32, mlp_dim=64, num_queries=6,
        query_mlp_dim=64,
    )  # fmt: skip
    return config.lock()
