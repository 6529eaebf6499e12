"""What every kind sounds like, and what it plays."""

from __future__ import annotations

from collections.abc import Mapping

from data_pipelines.world.sound import Style, Timbre, harmonics

VOICES: Mapping[str, tuple[Timbre, Style]] = {
    "accordion": (
        Timbre(
            harmonics(1.0, 0.62, 0.48, 0.34, 0.22, 0.18, 0.12, 0.1, 0.06),
            attack_s=0.045,
            release_s=0.05,
            tremolo=(5.2, 0.14),
            noise=(0.02, 900, 4500, 9.0),
            spread=0.09,
        ),
        Style(-8, 8, (0.5, 0.5, 1.0), hold=0.8, voices=3),
    ),
    "bell": (
        Timbre(
            (
                (0.5, 0.42),
                (1.0, 1.0),
                (1.19, 0.42),
                (1.5, 0.26),
                (2.0, 0.62),
                (2.66, 0.26),
                (3.01, 0.22),
                (4.1, 0.16),
                (5.4, 0.08),
            ),
            attack_s=0.003,
            decay_s=1.5,
            release_s=0.5,
            damping=0.55,
            noise=(0.25, 2500, 7500, 0.02),
        ),
        Style(2, 13, (1.0, 2.0, 1.0), hold=1.6),
    ),
    "bird": (
        Timbre(
            harmonics(1.0, 0.1, 0.03),
            attack_s=0.012,
            decay_s=0.16,
            release_s=0.03,
            vibrato=(21.0, 0.9),
            glide=(-5.0, 0.05),
            noise=(0.015, 3000, 7000, 0.1),
        ),
        Style(30, 41, (0.25, 0.25, 0.5, 0.25, 0.75), hold=0.7),
    ),
    "car": (
        Timbre(
            ((1.0, 1.0), (1.26, 0.9), (2.0, 0.55), (2.52, 0.5), (3.0, 0.4), (3.78, 0.35), (5.0, 0.2)),
            attack_s=0.012,
            release_s=0.03,
            noise=(0.10, 60, 500, 9.0),
        ),
        Style(5, 8, (0.5, 0.5, 1.0, 1.0), hold=0.55),
    ),
    "cat": (
        Timbre(
            harmonics(0.55, 1.0, 0.85, 0.5, 0.35, 0.2, 0.1),
            attack_s=0.10,
            release_s=0.12,
            vibrato=(6.5, 0.35),
            glide=(-7.0, 0.16),
            noise=(0.03, 1500, 5000, 9.0),
        ),
        Style(9, 17, (1.5, 2.0), hold=0.72),
    ),
    "cello": (
        Timbre(
            harmonics(0.7, 1.0, 0.8, 0.62, 0.4, 0.34, 0.2, 0.16, 0.1, 0.06),
            attack_s=0.13,
            release_s=0.12,
            vibrato=(4.6, 0.22),
            noise=(0.03, 300, 1800, 9.0),
        ),
        Style(-24, -12, (1.0, 2.0, 1.5), hold=1.02),
    ),
    "clock": (
        Timbre(
            ((1.0, 0.7), (2.74, 0.5), (4.1, 0.25)),
            attack_s=0.001,
            decay_s=0.012,
            release_s=0.02,
            noise=(0.9, 2600, 7200, 0.008),
        ),
        Style(31, 36, (0.5,), hold=0.3),
    ),
    "dog": (
        Timbre(
            harmonics(0.6, 1.0, 0.9, 0.7, 0.5, 0.4, 0.25, 0.15),
            attack_s=0.008,
            decay_s=0.10,
            release_s=0.03,
            glide=(9.0, 0.035),
            noise=(0.85, 500, 3200, 0.055),
        ),
        Style(-9, -3, (0.5, 0.25, 0.5), hold=0.40),
    ),
    "drum": (
        Timbre(
            ((1.0, 1.0), (1.59, 0.45), (2.14, 0.28), (2.65, 0.16)),
            attack_s=0.002,
            decay_s=0.13,
            release_s=0.05,
            damping=0.6,
            glide=(9.0, 0.028),
            noise=(0.55, 900, 6500, 0.075),
        ),
        Style(-17, -9, (0.5, 0.5, 0.25, 1.0), hold=0.7),
    ),
    "flute": (
        Timbre(
            harmonics(1.0, 0.3, 0.09, 0.03),
            attack_s=0.05,
            release_s=0.05,
            vibrato=(5.0, 0.16),
            tremolo=(5.0, 0.16),
            noise=(0.055, 1400, 5200, 3.0),
        ),
        Style(10, 26, (0.5, 0.5, 1.0, 1.5), hold=0.96),
    ),
    "frying-food": (
        Timbre((), attack_s=0.003, release_s=0.06, tremolo=(23.0, 0.55), noise=(1.0, 2600, 7600, 9.0)),
        Style(0, 2, (0.25, 0.25, 0.5), hold=1.05),
    ),
    "guitar": (
        Timbre(
            harmonics(1.0, 0.72, 0.5, 0.3, 0.24, 0.16, 0.1, 0.08, 0.05, 0.04),
            attack_s=0.003,
            decay_s=0.75,
            release_s=0.09,
            damping=0.32,
            noise=(0.12, 1500, 5000, 0.012),
        ),
        Style(-12, 12, (0.5,), hold=1.5, arpeggio=True),
    ),
    "helicopter": (
        Timbre(
            harmonics(0.8, 0.6, 0.4, 0.3),
            attack_s=0.05,
            release_s=0.08,
            tremolo=(11.0, 0.97),
            noise=(1.2, 60, 800, 9.0),
        ),
        Style(-30, -26, (2.0, 3.0), hold=1.05),
    ),
    "hen": (
        Timbre(
            harmonics(0.5, 0.5, 1.0, 0.35, 0.3),
            attack_s=0.008,
            decay_s=0.045,
            release_s=0.02,
            glide=(5.0, 0.03),
            noise=(0.10, 1200, 4000, 0.03),
        ),
        Style(6, 10, (0.25, 0.25, 0.25, 0.75), hold=0.6),
    ),
    "marimba": (
        Timbre(
            ((1.0, 1.0), (3.93, 0.50), (9.2, 0.20)),
            attack_s=0.002,
            decay_s=0.17,
            release_s=0.05,
            damping=0.25,
            noise=(0.10, 1000, 4000, 0.01),
        ),
        Style(8, 27, (0.25, 0.25, 0.5), hold=0.9),
    ),
    "motorcycle": (
        Timbre(
            harmonics(*(0.9**k for k in range(26))),
            attack_s=0.06,
            release_s=0.08,
            vibrato=(0.8, 2.6),
            tremolo=(15.0, 0.55),
            noise=(0.35, 1500, 5000, 9.0),
        ),
        Style(-34, -30, (2.0, 3.0), hold=1.05),
    ),
    "piano": (
        Timbre(
            ((1.0, 1.0), (2.003, 0.65), (3.01, 0.42), (4.03, 0.26), (5.06, 0.15), (6.1, 0.10), (7.15, 0.06)),
            attack_s=0.002,
            decay_s=0.85,
            release_s=0.10,
            damping=0.22,
            noise=(0.05, 400, 2000, 0.02),
        ),
        Style(-12, 8, (1.0, 0.5, 0.5, 1.0), hold=0.98, voices=3),
    ),
    "saxophone": (
        Timbre(
            harmonics(0.8, 0.55, 1.0, 0.45, 0.75, 0.3, 0.4, 0.2, 0.2, 0.12),
            attack_s=0.05,
            release_s=0.06,
            vibrato=(4.7, 0.35),
            tremolo=(31.0, 0.28),
            glide=(-1.6, 0.06),
            noise=(0.05, 900, 3500, 9.0),
        ),
        Style(-10, 5, (0.75, 0.25, 1.0, 0.5, 1.5), hold=0.92),
    ),
    "train": (
        Timbre(
            ((1.0, 1.0), (1.19, 0.95), (1.5, 0.9), (2.0, 0.5), (2.38, 0.5), (3.0, 0.45), (3.57, 0.25), (4.5, 0.2)),
            attack_s=0.10,
            release_s=0.10,
            spread=0.12,
            noise=(0.16, 300, 3200, 9.0),
        ),
        Style(-13, -8, (2.0, 3.0), hold=0.86),
    ),
    "trumpet": (
        Timbre(
            harmonics(0.85, 1.0, 0.95, 0.72, 0.55, 0.4, 0.28, 0.2, 0.13, 0.08, 0.05),
            attack_s=0.035,
            release_s=0.04,
            vibrato=(5.6, 0.13),
            glide=(-0.7, 0.03),
            noise=(0.02, 1200, 4000, 0.08),
        ),
        Style(2, 15, (0.5, 1.0, 0.5, 1.5), hold=0.86),
    ),
    "ukulele": (
        Timbre(
            harmonics(1.0, 0.5, 0.42, 0.14, 0.12, 0.05),
            attack_s=0.002,
            decay_s=0.26,
            release_s=0.06,
            damping=0.35,
            noise=(0.16, 2200, 6000, 0.010),
        ),
        Style(12, 24, (0.5, 0.5, 0.25, 0.25), hold=1.1, voices=3, roll_s=0.022),
    ),
    "violin": (
        Timbre(
            harmonics(1.0, 0.7, 0.58, 0.4, 0.42, 0.24, 0.17, 0.15, 0.1, 0.08, 0.05),
            attack_s=0.09,
            release_s=0.08,
            vibrato=(5.8, 0.24),
            noise=(0.025, 1800, 6000, 9.0),
        ),
        Style(3, 17, (1.0, 2.0, 1.0, 1.5), hold=1.02),
    ),
}
