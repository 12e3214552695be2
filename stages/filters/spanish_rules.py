"""Words that spaCy's rules for Spanish split in their own way, or leave whole (spacy/lang/es/tokenizer_exceptions.py)."""

from __future__ import annotations

WHOLE = """
n° °C aprox. dna. dpto. ej. esq. pág. p.ej. Ud. Vd. Uds. Vds. vol. a.C. a.J.C. d.C. d.J.C. apdo. Av. Avda. Cía. Dr. Dra.
EE.UU. Ee.Uu. etc. fig. Gob. Gral. Ing. J.C. km/h Lic. m.n. núm. P.D. Prof. Profa. q.e.p.d. Q.E.P.D. S.A. S.L. S.R.L. s.s.s.
Sr. Sra. Srta.
"""
SPACED = ("EE. UU.", "Ee. Uu.")


def spanish_exceptions() -> dict[str, tuple[str, ...]]:
    """Those that are not of all languages, with their parts."""
    found: dict[str, tuple[str, ...]] = {one: (one,) for one in (*WHOLE.split(), *SPACED)}
    found |= {f"{hour}{half}": (str(hour), half) for hour in range(1, 13) for half in ("a.m.", "am", "p.m.", "pm")}
    return found | {"12m.": ("12", "m."), "pal": ("pa", "l")}
