"""Chinese names of plain icons: a word list for what emojibase does not name."""

_TABLE = """
activity 活动|address 地址|aid 急救|air 空气|airplane 飞机|airport 机场|alarm 闹钟|album 相册|alert 警报
alien 外星人|ambulance 救护车|anchor 锚|angel 天使|animal 动物|ant 蚂蚁|antenna 天线|apple 苹果
application 应用|apron 围裙|archery 射箭|arm 手臂|armor 盔甲|arrow 箭头|art 艺术|artist 画家|astronaut 宇航员
atom 原子|avocado 牛油果|award 奖章|axe 斧头|baby 婴儿|back 背部|backpack 背包|bacon 培根|badge 徽章
badminton 羽毛球|bag 包|bakery 面包店|balance 天平|ball 球|balloon 气球|banana 香蕉|band 乐队|bandage 绷带
bank 银行|bar 条|barrel 木桶|baseball 棒球|basket 篮子|basketball 篮球|bat 蝙蝠|bath 浴缸|bathtub 浴缸
battery 电池|beach 海滩|bean 豆子|bear 熊|beard 胡子|bed 床|bee 蜜蜂|beer 啤酒|beetle 甲虫|bell 铃铛
belt 腰带|bench 长椅|bicycle 自行车|bike 自行车|bin 垃圾桶|binoculars 双筒望远镜|bird 鸟|biscuit 饼干
blanket 毯子|blood 血液|board 板|boat 船|body 身体|bolt 闪电|bomb 炸弹|bone 骨头|book 书|bookmark 书签
books 书籍|boot 靴子|bottle 瓶子|bow 弓|bowl 碗|bowling 保龄球|box 盒子|boxing 拳击|boy 男孩|bracelet 手镯
brain 大脑|bread 面包|brick 砖块|bridge 桥|briefcase 公文包|broccoli 西兰花|broom 扫帚|brush 刷子|bubble 气泡
bubbles 气泡|bucket 水桶|bug 虫子|building 建筑|bulb 灯泡|bull 公牛|bullet 子弹|burger 汉堡|bus 公交车
business 商务|butterfly 蝴蝶|button 按钮|cabin 小屋|cable 电缆|cactus 仙人掌|cake 蛋糕|calculator 计算器
calendar 日历|camel 骆驼|camera 相机|can 罐子|candle 蜡烛|candy 糖果|cannon 大炮|canoe 独木舟|cap 帽子
capsule 胶囊|car 汽车|card 卡片|cards 纸牌|carrot 胡萝卜|cart 推车|cash 现金|castle 城堡|cat 猫|cave 洞穴
chain 链条|chair 椅子|chart 图表|chat 聊天|check 勾选|cheese 奶酪|chef 厨师|cherry 樱桃|chess 国际象棋
chest 箱子|chicken 鸡|child 孩子|chip 芯片|chocolate 巧克力|church 教堂|cigarette 香烟|circle 圆形|city 城市
claw 爪子|clip 夹子|clipboard 剪贴板|clock 时钟|cloth 布|clothes 衣服|cloud 云|cloudy 多云|clover 三叶草
clown 小丑|coat 外套|cocktail 鸡尾酒|code 代码|coffee 咖啡|coffin 棺材|cog 齿轮|coin 硬币|coins 硬币
comb 梳子|comment 评论|compass 指南针|computer 电脑|cone 圆锥|contact 联系人|controller 手柄|cookie 曲奇
cooking 烹饪|corn 玉米|couch 沙发|cow 奶牛|crab 螃蟹|crane 起重机|credit 信用|crocodile 鳄鱼|cross 十字
crow 乌鸦|crown 皇冠|crystal 水晶|cube 立方体|cup 杯子|cupcake 纸杯蛋糕|curtain 窗帘|cycle 循环|dance 舞蹈
database 数据库|date 日期|day 白天|deer 鹿|delivery 送货|desk 书桌|desktop 台式电脑|dessert 甜点|diamond 钻石
dice 骰子|dinosaur 恐龙|disc 光盘|disk 磁盘|dish 盘子|document 文档|dog 狗|doll 娃娃|dollar 美元|dolphin 海豚
donut 甜甜圈|door 门|double 双|dragon 龙|drawer 抽屉|dress 连衣裙|drill 电钻|drink 饮料|drone 无人机
drop 水滴|drum 鼓|duck 鸭子|dumbbell 哑铃|dumpling 饺子|eagle 鹰|ear 耳朵|earring 耳环|earth 地球|egg 鸡蛋
eggplant 茄子|eight 八|electric 电动|elephant 大象|elevator 电梯|email 邮件|energy 能量|engine 发动机
envelope 信封|eraser 橡皮|euro 欧元|explosion 爆炸|eye 眼睛|eyes 眼睛|face 脸|factory 工厂|family 家庭
fan 风扇|farm 农场|feather 羽毛|fence 栅栏|file 文件|film 电影|finger 手指|fingerprint 指纹|fire 火
firework 烟花|first 第一|fish 鱼|fishing 钓鱼|fist 拳头|five 五|flag 旗帜|flame 火焰|flash 闪光
flashlight 手电筒|flask 烧瓶|flower 花|flute 笛子|fog 雾|folder 文件夹|food 食物|foot 脚|football 足球
forest 森林|fork 叉子|fountain 喷泉|four 四|fox 狐狸|frame 相框|fridge 冰箱|fries 薯条|frog 青蛙|fruit 水果
fuel 燃料|full 满|game 游戏|garden 花园|garlic 大蒜|gas 燃气|gate 大门|gauge 仪表|gear 齿轮|gem 宝石
ghost 幽灵|gift 礼物|ginger 姜|giraffe 长颈鹿|girl 女孩|glass 玻璃杯|glasses 眼镜|globe 地球仪|glove 手套
goat 山羊|gold 黄金|golf 高尔夫|grape 葡萄|grapes 葡萄|grass 草|guitar 吉他|gun 枪|gym 健身房|hail 冰雹
hair 头发|ham 火腿|hamburger 汉堡|hammer 锤子|hand 手|handbag 手提包|hands 双手|hanger 衣架|happy 开心
harp 竖琴|hat 帽子|head 头|headphone 耳机|headphones 耳机|headset 耳机|health 健康|heart 心|hearts 红桃
hedgehog 刺猬|helicopter 直升机|helmet 头盔|hen 母鸡|hexagon 六边形|high 高|hippo 河马|hockey 曲棍球|home 家
honey 蜂蜜|hook 钩子|horn 号角|horse 马|hospital 医院|hot 热|hotel 酒店|hourglass 沙漏|house 房子
hurricane 飓风|ice 冰|idea 想法|image 图片|iron 熨斗|island 岛屿|jacket 夹克|jam 果酱|jar 罐子|jeep 吉普车
jewelry 珠宝|joystick 操纵杆|juice 果汁|kangaroo 袋鼠|kettle 水壶|key 钥匙|keyboard 键盘|king 国王
kitchen 厨房|kite 风筝|kiwi 猕猴桃|knife 刀|knight 骑士|koala 考拉|ladder 梯子|lamp 灯|lantern 灯笼
laptop 笔记本电脑|large 大|leaf 叶子|leaves 叶子|left 左|leg 腿|lemon 柠檬|lens 镜头|letter 信|library 图书馆
light 灯光|lighthouse 灯塔|lighter 打火机|lightbulb 灯泡|lightning 闪电|lion 狮子|lip 嘴唇|lips 嘴唇
lipstick 口红|list 列表|lizard 蜥蜴|llama 羊驼|lobster 龙虾|lock 锁|log 原木|lollipop 棒棒糖|lotus 莲花
love 爱|luggage 行李|lungs 肺|machine 机器|magic 魔法|magnet 磁铁|magnifier 放大镜|mail 邮件|mailbox 邮箱
man 男人|mango 芒果|map 地图|marker 标记|mask 面具|match 火柴|meat 肉|medal 奖牌|medical 医疗|medicine 药
megaphone 扩音器|melon 瓜|message 消息|metal 金属|meteor 流星|metro 地铁|microphone 麦克风|microscope 显微镜
milk 牛奶|mirror 镜子|mobile 手机|money 钱|monitor 显示器|monkey 猴子|monster 怪物|moon 月亮|mosque 清真寺
mosquito 蚊子|motorcycle 摩托车|mountain 山|mouse 老鼠|mouth 嘴|movie 电影|mug 马克杯|mushroom 蘑菇
music 音乐|nail 钉子|necklace 项链|needle 针|nest 鸟巢|new 新|newspaper 报纸|night 夜晚|nine 九|ninja 忍者
noodles 面条|nose 鼻子|note 音符|notebook 笔记本|notes 笔记|nurse 护士|nut 坚果|ocean 海洋|octopus 章鱼
office 办公室|oil 油|olive 橄榄|one 一|onion 洋葱|open 打开|orange 橙子|orchid 兰花|oven 烤箱|owl 猫头鹰
package 包裹|padlock 挂锁|paint 油漆|paintbrush 画笔|painting 绘画|palace 宫殿|palette 调色板|palm 棕榈
pan 平底锅|panda 熊猫|pants 裤子|paper 纸|parachute 降落伞|park 公园|parking 停车|parrot 鹦鹉|party 派对
passport 护照|path 小路|paw 爪印|peace 和平|peach 桃子|peacock 孔雀|peanut 花生|pear 梨|pen 钢笔|pencil 铅笔
penguin 企鹅|people 人们|pepper 辣椒|person 人|pet 宠物|petrol 汽油|phone 电话|photo 照片|piano 钢琴
picture 图片|pie 馅饼|pig 猪|pill 药片|pills 药片|pillow 枕头|pin 图钉|pine 松树|pineapple 菠萝|pipe 管子
pirate 海盗|pizza 披萨|plane 飞机|planet 行星|plant 植物|plate 盘子|plug 插头|podium 领奖台|police 警察
pond 池塘|pool 泳池|popcorn 爆米花|pot 锅|potato 土豆|potion 药水|pound 英镑|power 电源|presentation 演示
printer 打印机|prize 奖品|projector 投影仪|pump 泵|pumpkin 南瓜|purse 钱包|puzzle 拼图|pyramid 金字塔
queen 王后|rabbit 兔子|racket 球拍|radar 雷达|radio 收音机|rain 雨|rainbow 彩虹|raindrop 雨滴|rat 老鼠
razor 剃须刀|receipt 收据|record 唱片|recycle 回收|restaurant 餐厅|ribbon 丝带|rice 米饭|rifle 步枪|ring 戒指
river 河流|road 道路|robot 机器人|rock 岩石|rocket 火箭|roller 滚筒|roof 屋顶|room 房间|rooster 公鸡|root 根
rope 绳子|rose 玫瑰|round 圆形|router 路由器|rug 地毯|ruler 尺子|run 跑步|running 跑步|sad 难过|safe 保险箱
sail 帆|sailboat 帆船|salad 沙拉|salt 盐|sand 沙子|sandwich 三明治|satellite 卫星|sauce 酱|sausage 香肠
saw 锯子|saxophone 萨克斯|scale 秤|scarf 围巾|school 学校|science 科学|scissors 剪刀|scooter 滑板车
scorpion 蝎子|screen 屏幕|screw 螺丝|screwdriver 螺丝刀|sea 海|seal 海豹|seat 座位|seed 种子|seven 七
shark 鲨鱼|sheep 绵羊|shell 贝壳|shelf 架子|shield 盾牌|ship 轮船|shirt 衬衫|shoe 鞋子|shoes 鞋子|shop 商店
shopping 购物|shorts 短裤|shovel 铲子|shower 淋浴|shrimp 虾|sign 标志|six 六|skateboard 滑板|skeleton 骷髅
ski 滑雪|skiing 滑雪|skirt 裙子|skull 头骨|sled 雪橇|sleep 睡觉|slice 切片|slippers 拖鞋|sloth 树懒|small 小
smartphone 智能手机|smile 微笑|smiley 笑脸|smoke 烟|smoking 吸烟|snail 蜗牛|snake 蛇|snow 雪
snowboard 单板滑雪|snowflake 雪花|snowman 雪人|soap 肥皂|soccer 足球|sock 袜子|socks 袜子|soda 汽水|sofa 沙发
solar 太阳能|soup 汤|space 太空|spaceship 宇宙飞船|spade 黑桃|speaker 扬声器|spear 长矛|spider 蜘蛛
spoon 勺子|sport 运动|spray 喷雾|spring 春天|sprout 嫩芽|square 方形|squirrel 松鼠|stadium 体育场|stairs 楼梯
stamp 邮票|star 星星|stars 星星|station 车站|steak 牛排|stethoscope 听诊器|stone 石头|stop 停止
stopwatch 秒表|store 商店|storm 风暴|stove 炉子|strawberry 草莓|street 街道|submarine 潜水艇|subway 地铁
suitcase 行李箱|summer 夏天|sun 太阳|sunflower 向日葵|sunglasses 太阳镜|sunny 晴天|sunrise 日出|sunset 日落
surfboard 冲浪板|sushi 寿司|swan 天鹅|sweater 毛衣|swimming 游泳|switch 开关|sword 剑|swords 剑
syringe 注射器|table 桌子|tablet 平板电脑|tag 标签|tank 坦克|tape 胶带|target 靶子|taxi 出租车|tea 茶
teacher 老师|teapot 茶壶|teeth 牙齿|telephone 电话|telescope 望远镜|television 电视|temple 寺庙|tennis 网球
tent 帐篷|theater 剧院|thermometer 温度计|thief 小偷|three 三|thumb 拇指|thunder 雷|thunderstorm 雷暴
ticket 票|tie 领带|tiger 老虎|time 时间|tire 轮胎|toast 吐司|toilet 马桶|tomato 番茄|tongue 舌头|tool 工具
toolbox 工具箱|tools 工具|tooth 牙齿|toothbrush 牙刷|torch 火炬|tornado 龙卷风|towel 毛巾|tower 塔|toy 玩具
tractor 拖拉机|traffic 交通|train 火车|tram 电车|trash 垃圾桶|tree 树|trees 树林|triangle 三角形|trophy 奖杯
trousers 裤子|truck 卡车|trumpet 小号|trunk 树干|tshirt T恤|tulip 郁金香|turkey 火鸡|turtle 乌龟|tv 电视
two 二|ufo 飞碟|umbrella 雨伞|unicorn 独角兽|user 用户|vacuum 吸尘器|van 面包车|vase 花瓶|vest 背心
video 视频|violin 小提琴|virus 病毒|volcano 火山|volleyball 排球|volume 音量|wagon 马车|wall 墙|wallet 钱包
wand 魔杖|wardrobe 衣柜|warehouse 仓库|washing 洗衣|watch 手表|water 水|waterfall 瀑布|watermelon 西瓜
wave 波浪|waves 波浪|weather 天气|web 网|webcam 摄像头|weight 重量|whale 鲸鱼|wheat 小麦|wheel 轮子
wheelchair 轮椅|whistle 哨子|wind 风|windmill 风车|window 窗户|wine 葡萄酒|wing 翅膀|wings 翅膀|winter 冬天
witch 女巫|wizard 巫师|wolf 狼|woman 女人|wood 木头|world 世界|worm 虫子|wrench 扳手|yacht 游艇|yen 日元
yoga 瑜伽|zebra 斑马|zero 零|zodiac 星座|zombie 僵尸
shopping cart 购物车|shopping bag 购物袋|shopping basket 购物篮|credit card 信用卡|light bulb 灯泡
ice cream 冰淇淋|hot dog 热狗|palm tree 棕榈树|pine tree 松树|christmas tree 圣诞树|washing machine 洗衣机
fire truck 消防车|police car 警车|alarm clock 闹钟|paper clip 回形针|paper plane 纸飞机|traffic light 红绿灯
traffic cone 交通锥|first aid kit 急救箱|medical cross 医疗十字|hot air balloon 热气球|french fries 薯条
fried egg 煎蛋|pie chart 饼图|bar chart 柱状图|chart pie 饼图|chart bar 柱状图|test tube 试管|magic wand 魔杖
high heel 高跟鞋|gas station 加油站|wine bottle 酒瓶|wine glass 酒杯|coffee cup 咖啡杯|tea cup 茶杯
water bottle 水瓶|baby bottle 奶瓶|baby carriage 婴儿车|bow tie 领结|teddy bear 泰迪熊|fishing rod 鱼竿
treasure chest 宝箱|crystal ball 水晶球|swimming pool 游泳池|bowling ball 保龄球|piggy bank 存钱罐
street lamp 路灯|desk lamp 台灯|table lamp 台灯|game controller 游戏手柄|video camera 摄像机
movie camera 电影摄影机|cell phone 手机|mobile phone 手机|phone call 电话|speech bubble 对话气泡
light switch 电灯开关|paint brush 画笔|paint roller 油漆滚筒
"""

WORDS: dict[str, str] = dict(
    entry.rsplit(" ", 1) for line in _TABLE.strip().split("\n") for entry in line.split("|")
)


def chinese_name(name: str) -> str | None:
    """The Chinese of a normalised English icon name: as a whole, else word by word where all are known."""
    if name in WORDS:
        return WORDS[name]
    words = [WORDS.get(word) for word in name.split()]
    return "".join(word for word in words if word) if len(words) <= 2 and all(words) else None
