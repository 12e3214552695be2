"""The languages that lid.176.ftz tells apart, by fastText's label, with what people call them.

A label is ISO 639: two letters where there are two, else three, with a few of Wikipedia's own (`als`, `bh`, `nah`).
"""

from __future__ import annotations

import difflib
import re

_TABLE = """
af Afrikaans; als Alemannic; am Amharic; an Aragonese; ar Arabic; arz Egyptian Arabic; as Assamese; ast Asturian; av Avar;
az Azerbaijani; azb South Azerbaijani; ba Bashkir; bar Bavarian; bcl Central Bikol; be Belarusian; bg Bulgarian; bh Bihari;
bn Bengali; bo Tibetan; bpy Bishnupriya; br Breton; bs Bosnian; bxr Buryat; ca Catalan; cbk Chavacano; ce Chechen; ceb Cebuano;
ckb Central Kurdish; co Corsican; cs Czech; cv Chuvash; cy Welsh; da Danish; de German; diq Zazaki; dsb Lower Sorbian;
dty Doteli; dv Divehi; el Greek; eml Emilian-Romagnol; en English; eo Esperanto; es Spanish; et Estonian; eu Basque; fa Persian;
fi Finnish; fr French; frr North Frisian; fy West Frisian; ga Irish; gd Scottish Gaelic; gl Galician; gn Guarani;
gom Goan Konkani; gu Gujarati; gv Manx; he Hebrew; hi Hindi; hif Fiji Hindi; hr Croatian; hsb Upper Sorbian; ht Haitian;
hu Hungarian; hy Armenian; ia Interlingua; id Indonesian; ie Interlingue; ilo Ilokano; io Ido; is Icelandic; it Italian;
ja Japanese; jbo Lojban; jv Javanese; ka Georgian; kk Kazakh; km Khmer; kn Kannada; ko Korean; krc Karachay-Balkar; ku Kurdish;
kv Komi; kw Cornish; ky Kyrgyz; la Latin; lb Luxembourgish; lez Lezgian; li Limburgish; lmo Lombard; lo Lao; lrc Northern Luri;
lt Lithuanian; lv Latvian; mai Maithili; mg Malagasy; mhr Meadow Mari; min Minangkabau; mk Macedonian; ml Malayalam;
mn Mongolian; mr Marathi; mrj Hill Mari; ms Malay; mt Maltese; mwl Mirandese; my Burmese; myv Erzya; mzn Mazandarani;
nah Nahuatl; nap Neapolitan; nds Low German; ne Nepali; new Newar; nl Dutch; nn Norwegian Nynorsk; no Norwegian; oc Occitan;
or Odia; os Ossetian; pa Punjabi; pam Pampanga; pfl Palatine German; pl Polish; pms Piedmontese; pnb Western Punjabi; ps Pashto;
pt Portuguese; qu Quechua; rm Romansh; ro Romanian; ru Russian; rue Rusyn; sa Sanskrit; sah Yakut; sc Sardinian; scn Sicilian;
sco Scots; sd Sindhi; sh Serbo-Croatian; si Sinhala; sk Slovak; sl Slovenian; so Somali; sq Albanian; sr Serbian; su Sundanese;
sv Swedish; sw Swahili; ta Tamil; te Telugu; tg Tajik; th Thai; tk Turkmen; tl Tagalog; tr Turkish; tt Tatar; tyv Tuvan;
ug Uyghur; uk Ukrainian; ur Urdu; uz Uzbek; vec Venetian; vep Veps; vi Vietnamese; vls West Flemish; vo Volapük; wa Walloon;
war Waray; wuu Wu Chinese; xal Kalmyk; xmf Mingrelian; yi Yiddish; yo Yoruba; yue Cantonese; zh Chinese
"""
NAMES: dict[str, str] = {
    label: name for label, _, name in (entry.strip().partition(" ") for entry in _TABLE.split(";"))
}
"""Label -> English name."""
_OTHER = {"eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "ita": "it", "por": "pt"}
_OTHER |= {"rus": "ru", "zho": "zh", "chi": "zh", "cmn": "zh", "mandarin": "zh", "jpn": "ja", "kor": "ko", "ara": "ar"}
_OTHER |= {"nld": "nl", "pol": "pl", "swe": "sv", "farsi": "fa", "iw": "he", "in": "id", "nb": "no", "bokmal": "no", "fil": "tl"}


def wrong_label(label: str, known: dict[str, str] | None = None) -> str | None:
    """What is wrong with a label, in one sentence; None where the model (label -> name, of lid.176 if not given) has it.

    The empty string, which stands for text without a language, is never wrong.
    """
    known = NAMES if known is None else known
    if label in known or label == "":
        return None
    return f"the model has no language {label!r}" + _suggestion(label, known)


def _suggestion(label: str, known: dict[str, str]) -> str:
    """`; did you mean en?`: by the English name, another code, a region behind the code, or the spelling."""
    plain = label.removeprefix("__label__").strip().lower()
    by_name = {name.lower(): code for code, name in NAMES.items()} | _OTHER
    for form in (plain, re.split(r"[-_ ]", plain)[0]):
        found = by_name.get(form, form)
        if found in known:
            return f"; did you mean {found}?"
    near = difflib.get_close_matches(plain, [*by_name, *known], 1)
    found = by_name.get(near[0], near[0]) if near else None
    if found in known:
        return f"; did you mean {found}?"
    return f"; it has {', '.join(sorted(known)[:12])}" + (" ..." if len(known) > 12 else "")
