export const greeting = "mapped";
