"""A mid-size Crab for benchmarks on two CPU cores: every structural feature, between the toy and the published one."""

from ml_collections import ConfigDict

from configs import published


def get_config(arg: str = "") -> ConfigDict:
    """Sizes of the model, and of the clip that is answered: ten frames, ten one-second windows, 80 prompt tokens."""
    config = published.get_config(arg).copy_and_resolve_references()
    config.unlock()
    m = config.model
    m.llama.update(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1376,
        num_layers=4,
        num_heads=8,
        num_kv_heads=8,
        max_positions=2048,
    )
    m.llama.lora.heads = 5
    m.clip.update(hidden_size=384, intermediate_size=1536, num_layers=6, num_heads=6, taps=(3, 4, 5))
    m.beats.update(
        embed_dim=256, encoder_layers=4, encoder_embed_dim=384, encoder_ffn_embed_dim=1536, encoder_attention_heads=6
    )
    for projector in (m.vl_projector, m.al_projector):
        projector.update(
            hidden_size=384,
            num_heads=6,
            intermediate_size=1536,
            out_features=512,
            vocab_size=1000,
            max_positions=64,
            encoder_width=384,
        )
    m.mask_decoder.update(in_features=512, image_features=384)
    config.bench = dict(
        frames=10,
        windows=10,
        window_frames=98,
        prompt_text_tokens=80,
        answer_tokens=40,
        new_tokens=64,
        batches=(1, 4, 8),
    )
    return config.lock()
