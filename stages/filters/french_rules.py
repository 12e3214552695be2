"""The words by which spaCy's rules for French tell whether a word with hyphens is one (spacy/lang/fr/tokenizer_exceptions.py)."""

from __future__ import annotations

from functools import cache

import numpy as np

from stages.kernels.french_words import word_hash

# First words: behind them a word with hyphens is whole.
FIRST = """
aero aéro abat afro agro after aigue aigues americano américano anglo anti apres après arabo arc arcs archi arrière
arrières audio avant avion auto banc bas basse basses bateau bateaux be bec belle belles beau best bi bio bien blanc
boite boîte bon bonn bone bons bonne bonnes bois bouc bourg beta bêta cache cap capello casse castel champ chapelle
chateau château chateauneuf châteauneuf chasse chaud chaude chauds chaudes chat chats chate chates chauffe chou chromo
claire claires clair clairs co code coca compte contre cordon coup coupe coups coupes court courte courts courtes
couvre crash crise croche cross cyber côte demi di disney dix de des dé dés dys e émirato entre est ethno ex extra
extrême eco éco faux fil fort franc franco francos francs gallo garde gardes gastro grand grande grands grandes gratte
greco gréco gros geo géo haut haute hauts hautes homme hommes homes hors hyper indo infra inter intra islamo italo
jean labio latino live lot louis macro micro mal médio mesnil mi mini mono mon mont monts mons moyen multi mecano
mécano medico médico medo médo meta méta mot mots neuro noix non nord notre neo néo ouest outre ouvre passe perce
pharmaco photo phyto pied pieds pique poisson poissons ponce pont port post pousse primo pro procès proto pare petit
petite petits petites plessis porte pré prêchi protège pseudo pêle péri puy quasi quatre radio recourt rythmo double
doubles redouble redoubles re ré retro rétro requin san sans saint sainte saints saintes sint sinte sants semi serre
sino socio social sociale socials sociales soixante sous sub sud sur sus super taille tire thermo tiers tourne tout
toute touts toutes traine traîne train trains traines traînes trans trente trois trousse tri trou tele télé utéro vaso
vice vide video vidéo vieux viel viell viels vieil vieille vieilles ville villeneuve villers villette villiers villy
vingt voiture voitures wagon wagons ultra à electro électro equi équi fontaine marie neuville pierre val vaux états
etats premier hip jet new burn by quelques rendez peut jusque celui celle celles lui
"""
MIDDLE = "le les lè lès la en de des du sur sous au aux à et près saint"  # between two hyphens
LAST = "ce clés elle en il ils je là moi nous on t vous"  # parted with the hyphen before them
SHORT = "av janv févr avr juill sept oct nov déc apr dr mr mme mlle ste cf etc mm pp vol"  # keep their dot


@cache
def french_sets() -> tuple[np.ndarray, np.ndarray]:
    """What `french_words` takes: hashes, sorted in each set (uint64), and where the sets begin (int64)."""
    sets = [np.array(sorted({word_hash(word) for word in words.split()}), np.uint64) for words in (FIRST, MIDDLE, LAST, SHORT)]
    return np.concatenate(sets), np.cumsum([0, *map(len, sets)])
