"""Words written for the planted documents: about mills, water and bread, in several languages."""

from __future__ import annotations

LANGUAGES: dict[str, tuple[str, ...]] = {
    "de": (
        "Die alte Mühle steht seit mehr als dreihundert Jahren am Rand des Dorfes. Früher brachten die Bauern "
        "ihr Getreide mit dem Pferdewagen hierher und warteten oft den halben Tag, bis das Mehl gemahlen war. "
        "Heute dreht sich das Rad nur noch an Sonntagen, wenn Besucher aus der Stadt kommen.",
        "Im Frühling führt der Bach so viel Wasser, dass der Müller das Wehr öffnen muss. Das Wasser fließt dann "
        "durch einen schmalen Graben an der Wiese vorbei und kommt erst hinter der Brücke wieder in sein Bett "
        "zurück. Die Kinder lassen dort kleine Schiffe aus Rinde schwimmen.",
        "Wer Brot aus frisch gemahlenem Mehl backen möchte, braucht vor allem Geduld. Der Teig muss über Nacht "
        "ruhen, damit er am nächsten Morgen schön aufgegangen ist. Danach formt man zwei runde Laibe und schiebt "
        "sie in den heißen Ofen.",
        "Der Verein, der die Mühle pflegt, sucht noch Helfer für den Sommer. Es gibt viel zu tun: Das Dach ist "
        "undicht, die Balken brauchen einen neuen Anstrich, und im Garten wächst das Unkraut höher als der Zaun.",
    ),
    "fr": (
        "Le vieux moulin se trouve au bout du village, là où la rivière fait un coude avant de rejoindre la "
        "vallée. Autrefois, les paysans y apportaient leur blé et attendaient leur tour en racontant les "
        "nouvelles de la semaine. Aujourd'hui, la roue ne tourne plus que le dimanche pour les visiteurs.",
        "Au printemps, l'eau monte si vite qu'il faut ouvrir les vannes pendant la nuit. Elle passe alors par un "
        "canal étroit, longe le verger et revient dans son lit après le petit pont de pierre. Les enfants y font "
        "flotter des bateaux d'écorce qu'ils ont taillés eux-mêmes.",
        "Pour faire un bon pain avec cette farine, il faut surtout du temps. La pâte doit reposer toute la nuit "
        "dans un endroit frais, puis on forme deux boules que l'on glisse dans un four très chaud. La croûte "
        "chante quand on sort le pain.",
        "L'association qui entretient le moulin cherche des volontaires pour l'été. Il reste beaucoup de travail "
        ": réparer le toit, repeindre les poutres et couper les ronces qui ont envahi le jardin depuis plusieurs "
        "années.",
    ),
    "es": (
        "El viejo molino está al final del pueblo, justo donde el río da una vuelta antes de bajar al valle. En "
        "otros tiempos los campesinos traían su trigo y esperaban su turno mientras contaban las noticias de la "
        "semana. Hoy la rueda solo gira los domingos, cuando llegan los visitantes de la ciudad.",
        "En primavera el agua sube tan deprisa que hay que abrir las compuertas durante la noche. Entonces pasa "
        "por un canal estrecho, sigue junto a los huertos y vuelve a su cauce después del puente de piedra. Los "
        "niños hacen allí carreras con barcos de corteza.",
        "Para hacer un buen pan con esta harina hace falta sobre todo paciencia. La masa tiene que descansar "
        "toda la noche en un lugar fresco, y a la mañana siguiente se forman dos hogazas que se meten en un "
        "horno muy caliente.",
        "La asociación que cuida el molino busca personas que quieran ayudar durante el verano. Queda mucho "
        "trabajo: hay que arreglar el tejado, pintar las vigas y cortar las zarzas que han crecido en el jardín.",
    ),
    "pl": (
        "Stary młyn stoi na końcu wsi, tam gdzie rzeka skręca w stronę doliny. Dawniej rolnicy przywozili tu "
        "zboże i czekali na swoją kolej, opowiadając sobie wiadomości z całego tygodnia. Dzisiaj koło obraca się "
        "tylko w niedzielę, kiedy przyjeżdżają goście z miasta.",
        "Na wiosnę woda podnosi się tak szybko, że w nocy trzeba otwierać śluzę. Płynie wtedy wąskim kanałem "
        "obok sadu i wraca do swojego koryta dopiero za kamiennym mostem. Dzieci puszczają tam łódki zrobione z "
        "kory.",
        "Aby upiec dobry chleb z tej mąki, potrzeba przede wszystkim cierpliwości. Ciasto musi odpoczywać przez "
        "całą noc w chłodnym miejscu, a rano formuje się z niego dwa bochenki i wkłada do bardzo gorącego pieca.",
        "Stowarzyszenie, które opiekuje się młynem, szuka pomocników na lato. Zostało jeszcze dużo pracy: trzeba "
        "naprawić dach, pomalować belki i wyciąć krzaki, które wyrosły w ogrodzie.",
    ),
    "it": (
        "Il vecchio mulino si trova in fondo al paese, dove il fiume piega prima di scendere nella valle. Una "
        "volta i contadini portavano qui il grano e aspettavano il loro turno raccontandosi le notizie della "
        "settimana. Oggi la ruota gira soltanto la domenica, quando arrivano i visitatori dalla città.",
        "In primavera l'acqua sale così in fretta che di notte bisogna aprire le chiuse. Allora passa per un "
        "canale stretto, costeggia gli orti e torna nel suo letto dopo il ponte di pietra. I bambini ci fanno "
        "navigare barchette di corteccia.",
        "Per fare un buon pane con questa farina ci vuole soprattutto pazienza. L'impasto deve riposare tutta la "
        "notte in un luogo fresco, e la mattina dopo si formano due pagnotte che si infornano a temperatura "
        "molto alta.",
        "L'associazione che si prende cura del mulino cerca volontari per l'estate. C'è ancora molto da fare: "
        "riparare il tetto, verniciare le travi e tagliare i rovi che hanno invaso il giardino.",
    ),
    "pt": (
        "O velho moinho fica no fim da aldeia, onde o rio faz uma curva antes de descer para o vale. Antigamente "
        "os lavradores traziam o trigo e esperavam pela sua vez enquanto contavam as notícias da semana. Hoje a "
        "roda só gira aos domingos, quando chegam os visitantes da cidade.",
        "Na primavera a água sobe tão depressa que é preciso abrir as comportas durante a noite. Passa então por "
        "um canal estreito, segue ao lado das hortas e volta ao seu leito depois da ponte de pedra.",
        "Para fazer um bom pão com esta farinha é preciso sobretudo paciência. A massa tem de descansar a noite "
        "inteira num lugar fresco, e na manhã seguinte formam-se dois pães que vão ao forno muito quente.",
        "A associação que cuida do moinho procura pessoas que queiram ajudar durante o verão. Ainda há muito "
        "trabalho: consertar o telhado, pintar as vigas e cortar o mato que cresceu no jardim.",
    ),
    "ru": (
        "Старая мельница стоит на краю деревни, там, где река поворачивает к долине. Раньше крестьяне привозили "
        "сюда зерно и ждали своей очереди, рассказывая друг другу новости за неделю. Сегодня колесо вращается "
        "только по воскресеньям, когда приезжают гости из города.",
        "Весной вода поднимается так быстро, что ночью приходится открывать плотину. Тогда она идёт по узкому "
        "каналу мимо сада и возвращается в своё русло только за каменным мостом. Дети пускают там кораблики из "
        "коры.",
        "Чтобы испечь хороший хлеб из этой муки, нужно прежде всего терпение. Тесто должно отдыхать всю ночь в "
        "прохладном месте, а утром из него делают два каравая и ставят в очень горячую печь.",
        "Общество, которое заботится о мельнице, ищет помощников на лето. Работы ещё много: надо починить крышу, "
        "покрасить балки и вырубить кусты, которые выросли в саду.",
    ),
    "zh": (
        "古老的水磨坊坐落在村子的尽头，河水在那里转了一个弯，然后流向山谷。从前，农民们把小麦运到这里，一边等待，"
        "一边讲述这一周的新闻。现在，水车只在星期天转动，那时城里的客人会来参观。",
        "到了春天，河水涨得很快，夜里必须打开水闸。水流过一条狭窄的水渠，经过果园，在石桥后面才回到原来的河道。孩"
        "子们在那里放树皮做的小船，看谁的船跑得最远。",
        "用这种面粉做好面包，最需要的是耐心。面团要在凉爽的地方放一整夜，第二天早上把它分成两个圆面包，放进很热的"
        "烤炉里。面包出炉的时候，整个院子都是香味。",
        "照顾磨坊的协会正在寻找夏天的志愿者。还有很多工作要做：屋顶需要修理，木梁需要重新刷漆，花园里的杂草已经长"
        "得比篱笆还高了。",
    ),
    "ja": (
        "古い水車小屋は村のはずれにあり、川はそこで曲がって谷へ流れていきます。昔は農家の人たちが小麦を運んできて"
        "、順番を待ちながら一週間の出来事を話し合っていました。今では日曜日だけ水車が回り、町から来た人たちを楽し"
        "ませています。",
        "春になると水がとても速く増えるので、夜のうちに水門を開けなければなりません。水は細い水路を通り、果樹園の"
        "そばを流れて、石の橋の先でもとの川に戻ります。子どもたちはそこで木の皮の舟を浮かべて遊びます。",
        "この粉でおいしいパンを焼くには、何よりも根気が必要です。生地は涼しい場所で一晩休ませ、翌朝二つに分けて丸"
        "め、とても熱い窯に入れます。焼き上がると庭じゅうに香りが広がります。",
        "水車を守る会では、夏の間に手伝ってくれる人を探しています。屋根を直したり、梁にペンキを塗ったり、庭の草を"
        "刈ったりと、まだたくさんの仕事が残っています。",
    ),
    "ar": (
        "تقع الطاحونة القديمة في آخر القرية حيث ينعطف النهر قبل أن ينزل إلى الوادي. كان الفلاحون في الماضي "
        "يحملون القمح إلى هنا وينتظرون دورهم وهم يتبادلون أخبار الأسبوع. أما اليوم فلا تدور العجلة إلا يوم الأحد "
        "عندما يأتي الزوار من المدينة.",
        "في الربيع يرتفع الماء بسرعة كبيرة حتى إنه يجب فتح السد أثناء الليل. عندئذ يمر الماء في قناة ضيقة بجانب "
        "البساتين ثم يعود إلى مجراه بعد الجسر الحجري. يلعب الأطفال هناك بقوارب صغيرة صنعوها من لحاء الشجر.",
        "لكي تصنع خبزا جيدا من هذا الدقيق تحتاج قبل كل شيء إلى الصبر. يجب أن يرتاح العجين طوال الليل في مكان "
        "بارد، وفي الصباح يقسم إلى رغيفين ويوضع في فرن شديد الحرارة.",
        "تبحث الجمعية التي تعتني بالطاحونة عن متطوعين لفصل الصيف. ما زال هناك عمل كثير: إصلاح السقف ودهان "
        "الأعمدة وقطع الأعشاب التي نمت في الحديقة منذ سنوات.",
    ),
}

# English, with letters outside ASCII: what a page in an old encoding loses when it is read as another one.
ENGLISH = (
    "The café beside the old mill opens at nine, and by ten every table on the terrace is taken. Its owner, "
    "Zoë, came from Orléans with a recipe for crème brûlée and the naïve belief that the roof would last "
    "another winter; repairing it cost £4,000, and she has told the story to everyone who has ever ordered a "
    "coffee there.",
    "A mill needs less water than most visitors think. What it needs is a steady fall, and that is why the "
    "headrace was dug: it leaves the river half a mile above the village, keeps its height along the side of "
    "the valley, and gives the wheel a drop of about twelve feet. The stream that turns it is no wider than "
    "a door.",
    "When the wheel was rebuilt the carpenters kept to the old joints. They used green oak, which can be cut "
    "with hand tools and grows harder over the years, and they left the paddles a little longer than before, "
    "because the drawings that they had found in the parish chest were made for a river that carried less "
    "water than it does today.",
    "Flour from the stones is sold in paper bags at the door. It keeps for about three months in a cool "
    "place, and it makes a loaf with a dark crust and a taste of nuts. People who have tried it with too "
    "much yeast are usually disappointed, for the dough wants time and not heat: leave it overnight, and it "
    "will have doubled by the morning.",
    "The trust that looks after the mill has about two hundred members, and most of them have never seen the "
    "river in flood. Those who have will tell you that the noise is what they remember: stones rolling along "
    "the bed of the stream in the dark, and the gate shaking on its hinges until somebody went out with a "
    "lamp to lift it.",
    "Visitors are welcome from Easter to the end of October. There is a path along the water that takes half "
    "an hour to walk, with benches in the shade, and a small museum with the tools that were found in the "
    "loft. Dogs may come with you if they are on a lead, and children should stay with their parents while "
    "the wheel is turning.",
)

_SPAM = (
    "cheap discount offer bonus deal sale shipping coupon voucher bargain outlet price lowest best free "
    "online buy order now today limited stock brand watches shoes handbags loans credit insurance replica "
    "wholesale promo"
)
SPAM_WORDS = tuple(_SPAM.split())

_OTHER = "therefore perhaps certainly merely roughly plainly usually mostly already rather quite simply"
OTHER_WORDS = tuple(_OTHER.split())

_CODE = "value total index buffer result offset width height count limit start stop"
CODE_WORDS = tuple(_CODE.split())
