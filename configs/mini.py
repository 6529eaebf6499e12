"""Crab-mini: the small model that ships. Every structural feature of the published one, sized for two CPU cores."""

from ml_collections import ConfigDict

from configs import published

IMAGE_SIZE = 112  # pixels per side; its shards are built with `--size 112`
WIDTH, VISION, SOUND = 160, 128, 128


def get_config(arg: str = "") -> ConfigDict:
    """Sizes of the model; the vocabulary is that of the tokenizer that comes with the project."""
    from crab_jax.tokens import Tokenizer

    config = published.get_config(arg).copy_and_resolve_references()
    config.unlock()
    m = config.model
    m.llama.update(
        vocab_size=Tokenizer.tiny().size, hidden_size=WIDTH, intermediate_size=432, num_layers=4, num_heads=5,
        num_kv_heads=5, max_positions=2048,
    )  # fmt: skip
    m.llama.lora.update(rank=4, alpha=8.0, dropout=0.0)  # dropout is for those who see an example twice
    m.clip.update(
        image_size=IMAGE_SIZE, hidden_size=VISION, intermediate_size=4 * VISION, num_layers=4, num_heads=4,
        taps=(3, 4, 4),  # the second hidden state knows much less of who is who
    )  # fmt: skip
    m.beats.update(
        embed_dim=128, encoder_layers=3, encoder_embed_dim=SOUND, encoder_ffn_embed_dim=4 * SOUND,
        encoder_attention_heads=4, conv_pos=16, conv_pos_groups=8, num_buckets=64, max_distance=128,
    )  # fmt: skip
    for projector, width in ((m.vl_projector, VISION), (m.al_projector, SOUND)):
        projector.update(
            num_queries=4, hidden_size=128, num_heads=4, intermediate_size=512, out_features=WIDTH, encoder_width=width,
            dropout=0.0, vocab_size=8, max_positions=8, init_std=0.088,
        )  # fmt: skip
    m.mask_decoder.update(
        in_features=WIDTH, image_features=VISION, grid=8, image_size=IMAGE_SIZE, low_res=56, prompt_dim=128,
        num_heads=4, mlp_dim=256, num_queries=8, query_heads=4, query_mlp_dim=256,
    )  # fmt: skip
    return config.lock()
