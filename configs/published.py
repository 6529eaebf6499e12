"""The published model: CLIP ViT-L/14, BEATs iter3+, LLaMA-2-7B with three LoRA heads, 300 mask queries.

model = crab_jax.config.build(crab_jax.model.CrabConfig, configs.published.get_config().model.to_dict())
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """All sizes of the published files; specification 3.3, 4.4, 5.1, 6.2, 7.1, 8.1."""
    if arg:
        raise ValueError(f"configs/published.py takes no argument, found {arg!r}")
    projector = dict(
        num_queries=32, hidden_size=768, num_heads=12, intermediate_size=3072, num_layers=2, cross_attention_freq=1,
        layer_norm_eps=1e-12, input_norm_eps=1e-5, hidden_act="gelu", dropout=0.1, out_features=4096, proj_depth=2,
        vocab_size=30522, max_positions=512,
    )  # fmt: skip
    config = ConfigDict()
    config.model = dict(
        llama=dict(
            vocab_size=32017, hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32,
            max_positions=4096, rms_norm_eps=1e-5, rope_theta=10000.0,
            lora=dict(heads=3, rank=8, alpha=16.0, dropout=0.05, dropout_masks="shared"),
        ),
        clip=dict(
            image_size=224, patch_size=14, hidden_size=1024, intermediate_size=4096, num_layers=24, num_heads=16,
            layer_norm_eps=1e-5, hidden_act="quick_gelu", taps=(14, 22, 23),
        ),
        beats=dict(
            input_patch_size=16, embed_dim=512, conv_bias=False, encoder_layers=12, encoder_embed_dim=768,
            encoder_ffn_embed_dim=3072, encoder_attention_heads=12, activation_fn="gelu", layer_norm_first=False,
            deep_norm=True, conv_pos=128, conv_pos_groups=16, relative_position_embedding=True, num_buckets=320,
            max_distance=800, gru_rel_pos=True,
        ),
        vl_projector=dict(projector, encoder_width=1024),
        al_projector=dict(projector, encoder_width=768),
        mask_decoder=dict(
            in_features=4096, image_features=1024, grid=16, image_size=224, low_res=112, prompt_dim=256, num_heads=8,
            mlp_dim=2048, downsample=2, depth=2, num_queries=300, query_layers=2, query_heads=8, query_mlp_dim=2048,
            levels=2, tokens_per_level=3, binary_classes=1, semantic_classes=71,
        ),
    )  # fmt: skip
    return config.lock()
